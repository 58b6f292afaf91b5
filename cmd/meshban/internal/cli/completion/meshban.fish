# fish completion for meshban
# install: meshban completion fish > ~/.config/fish/completions/meshban.fish
# try:     meshban completion fish | source
function __meshban_words
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found ($words[1] __words -- $words[2..-1] "$current" 2>/dev/null)
    if contains -- :files $found
        __fish_complete_path "$current"
    else
        printf '%s\n' $found
    end
end
complete -c meshban -f -a '(__meshban_words)'
