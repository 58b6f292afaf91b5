# bash completion for meshban
# install: meshban completion bash > /etc/bash_completion.d/meshban
# try:     source <(meshban completion bash)
_meshban() {
    local line=${COMP_LINE:0:COMP_POINT} word cut
    local -a words
    # bash cuts words at ":" too, which would tear IPv6 addresses apart
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]}
    cut=${word%"${word##*[:=]}"}
    COMPREPLY=()
    local candidate
    while IFS=$'\t' read -r candidate _; do
        if [[ $candidate == :files ]]; then
            compopt -o default
            return
        fi
        COMPREPLY+=("${candidate#"$cut"}")
    done < <("${words[0]}" __words -- "${words[@]:1}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -F _meshban meshban
