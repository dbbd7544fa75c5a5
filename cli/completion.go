package cli

import (
	"embed"
	"fmt"

	"github.com/urfave/cli/v2"
)

//go:embed completion
var completionScripts embed.FS

func (s *session) completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Category:  groupCluster,
		Usage:     "a script that lets your shell complete verbs and the names of live objects",
		ArgsUsage: "bash|zsh|fish",
		UsageText: `source <(skein completion bash)       in ~/.bashrc
source <(skein completion zsh)        in ~/.zshrc, after compinit
skein completion fish | source        in ~/.config/fish/config.fish`,
		Action: s.completion,
	}
}

func (s *session) completion(c *cli.Context) error {
	if c.NArg() != 1 {
		return missing(c, "a shell")
	}
	script, err := completionScripts.ReadFile("completion/skein." + c.Args().First())
	if err != nil {
		return usageError("usage: "+usageLine(c.Command), "there is no completion for %q", c.Args().First())
	}
	_, err = s.stdout.Write(script)
	return err
}

// completeCommand is what the scripts call with the words up to the cursor. It
// prints a candidate per line, a tab before what it is about, and never fails:
// a shell has no use for an error.
func (s *session) completeCommand() *cli.Command {
	return &cli.Command{
		Name:   "__complete",
		Hidden: true,
		Action: func(c *cli.Context) error {
			for _, candidate := range s.complete(c.Context, c.Args().Slice()) {
				fmt.Fprintln(s.stdout, candidate)
			}
			return nil
		},
	}
}
