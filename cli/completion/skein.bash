# bash completion for skein. Load it with: source <(skein completion bash)
_skein() {
    local words=("${COMP_WORDS[@]:1:COMP_CWORD}") line
    local IFS=$'\n'
    # bash takes "=" and ":" for ends of words; skein wants them whole.
    if declare -F _get_comp_words_by_ref >/dev/null; then
        local cur cword whole
        _get_comp_words_by_ref -n "=:" -c cur -i cword -w whole
        words=("${whole[@]:1:cword}")
    else
        local cur="${COMP_WORDS[COMP_CWORD]}"
    fi
    COMPREPLY=()
    while IFS= read -r line; do
        if [[ $line == :files ]]; then
            compopt -o default 2>/dev/null
            return
        fi
        line=${line%%$'\t'*}
        if [[ $line == */ || $line == *= ]]; then
            compopt -o nospace 2>/dev/null
        fi
        COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" __complete -- "${words[@]}" 2>/dev/null)
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}
complete -F _skein skein
