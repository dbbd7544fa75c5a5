#compdef skein
# zsh completion for skein. Load it with: source <(skein completion zsh)
_skein() {
    local line name
    local -a plain open
    while IFS= read -r line; do
        if [[ $line == :files ]]; then
            _files
            return
        fi
        name=${line%%$'\t'*}
        if [[ $name == */ || $name == *= ]]; then
            open+=("$name")
        elif [[ $line == *$'\t'* ]]; then
            plain+=("${name//:/\\:}:${line#*$'\t'}")
        else
            plain+=("${name//:/\\:}")
        fi
    done < <("${words[1]}" __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#plain} )) && _describe -t skein skein plain
    (( ${#open} )) && compadd -S '' -a open
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _skein "$@"
else
    compdef _skein skein
fi
