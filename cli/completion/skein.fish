# fish completion for skein. Load it with: skein completion fish | source
function __skein_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in (command $words[1] __complete -- $words[2..-1] 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path (commandline -ct)
            return
        end
        echo $line
    end
end
complete -c skein -f -a '(__skein_complete)'
