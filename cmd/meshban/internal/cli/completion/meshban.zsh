#compdef meshban
# zsh completion for meshban
# install: meshban completion zsh > "${fpath[1]}/_meshban"
# try:     source <(meshban completion zsh)
_meshban() {
    local line word text
    local -a described
    while IFS= read -r line; do
        if [[ $line == :files ]]; then
            _files
            return
        fi
        word=${line%%$'\t'*}
        text=${line#*$'\t'}
        [[ $line == *$'\t'* ]] || text=
        described+=("${word//:/\\:}${text:+:$text}")
    done < <("${words[1]}" __words -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    _describe -V meshban described
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _meshban "$@"
else
    compdef _meshban meshban
fi
