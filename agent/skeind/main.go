// Command skeind is skein's agent: one on every machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/agent"
	"github.com/skein-dev/skein/agent/lab"
	"github.com/skein-dev/skein/runtime/image"
	"github.com/skein-dev/skein/runtime/keeper"
	"github.com/skein-dev/skein/runtime/runc/transfer"
)

// version and format are set by the linker: format is a number, the newest that
// this build reads and writes, where it is not agent.DefaultFormat.
var (
	version = "dev"
	format  = ""
)

// A keeper that is reloaded becomes this program for a moment and then a keeper
// again. Its agent is told when the thread that started it ends, and what
// belongs to a thread is kept for the one that executes, so that is the first.
func init() {
	if len(os.Args) > 1 && os.Args[1] == runVerb {
		runtime.LockOSThread()
	}
}

const (
	runVerb   = "run"
	agentVerb = "agent"
)

func main() {
	// The child that unpacks layers is this very program; it must not pay for
	// parsing flags it does not have.
	if len(os.Args) > 1 && os.Args[1] == unpackVerb {
		os.Exit(image.UnpackMain(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == copyVerb {
		os.Exit(transfer.Main(os.Args[2:]))
	}
	cli.FlagStringer = plainDefaults(cli.FlagStringer)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	err := app().RunContext(ctx, os.Args)
	stop()
	os.Exit(forKeeper(exit(err)))
}

// unpackVerb starts the child that unpacks a layer, copyVerb the one that copies
// files in and out of containers.
const (
	unpackVerb = "unpack-layer"
	copyVerb   = "copy-files"
)

// forKeeper is how an agent that must not be started again says so: Go itself
// ends a program that panics with 2, and that one is.
func forKeeper(code int) int {
	if code == 2 && len(os.Args) > 1 && os.Args[1] == agentVerb {
		return keeper.ExitUsage
	}
	return code
}

// exit says what went wrong in one line and, where there is a way out, a hint.
func exit(err error) int {
	if err == nil {
		return 0
	}
	code := 1
	var usage *agent.UsageError
	var removed *agent.RemovedError
	var coded cli.ExitCoder
	switch {
	case errors.As(err, &usage):
		code = 2
	case errors.As(err, &removed):
		code = keeper.ExitRemoved
	case errors.As(err, &coded):
		code = coded.ExitCode()
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(os.Stderr, "skeind: "+strings.TrimSpace(text))
	}
	var hinted interface{ Hint() string }
	switch {
	case usage != nil && usage.Hint != "":
		fmt.Fprintln(os.Stderr, "hint: "+usage.Hint)
	case errors.As(err, &hinted) && hinted.Hint() != "":
		fmt.Fprintln(os.Stderr, "hint: "+hinted.Hint())
	}
	return code
}

// plainDefaults leaves out of a flag's help the defaults that say nothing.
func plainDefaults(text func(cli.Flag) string) func(cli.Flag) string {
	empty := strings.NewReplacer(" (default: false)", "", " (default: 0)", "", " (default: 0s)", "")
	return func(f cli.Flag) string { return empty.Replace(text(f)) }
}

// withoutHelpVerb spares every command a verb that --help makes idle.
func withoutHelpVerb(commands []*cli.Command) []*cli.Command {
	for _, c := range commands {
		c.HideHelpCommand = true
		withoutHelpVerb(c.Subcommands)
	}
	return commands
}

func app() *cli.App {
	return &cli.App{
		Name:    "skeind",
		Usage:   "the agent of skein: run containers on a group of machines",
		Version: version,
		UsageText: `skeind run --init                                       the first machine of a new cluster
skeind run --join 192.0.2.10:7373 --token skein1-…      every other machine
skeind unit > /etc/systemd/system/skein.service         the service that does this with systemd
skeind lab up                                           a cluster of three on this machine`,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {}, // exit says it
		Commands:        withoutHelpVerb([]*cli.Command{runCommand(), reloadCommand(), unitCommand(), agentCommand(), lab.Command(), recoverCommand(), cleanupCommand()}),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &agent.UsageError{Text: fmt.Sprintf("there is no command %q", c.Args().First()), Hint: "see them with \"skeind --help\""}
			}
			return cli.ShowAppHelp(c)
		},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return &agent.UsageError{Text: err.Error()} },
	}
}
