// Package cli is the skein command: it turns what a person types into calls to
// any agent's API, and the answers into text and exit codes.
//
// It owns words (verbs, flags, help, completion), the file of contexts, tables
// as drawn on this terminal, and the waiting. It leaves to the server what an
// object means: manifests are sent as they are, and rows of tables, documents,
// descriptions and the judgement of whether something has converged come back.
//
// House rules: data goes to stdout; progress, warnings and hints to stderr. One
// "skein: …" line per failure, lower case, without a full stop, and one "hint: …"
// line with what to run next. Nothing is said by colour alone.
package cli

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// Console is where a command reads and writes.
type Console struct {
	In       *os.File
	Out, Err *os.File
}

// session is one invocation of skein.
type session struct {
	stdin    *os.File
	stdout   io.Writer
	stderr   io.Writer
	outFile  *os.File // behind stdout, asked for its size
	inTTY    bool
	outTTY   bool
	errTTY   bool
	now      func() time.Time
	app      *cli.App
	trailing []string // what followed "--", for verbs that run a program
}

// Run does what args (without the program's name) ask for, and returns the exit
// code. It returns 130 soon after ctx has ended.
func Run(ctx context.Context, args []string, console Console) int {
	s := &session{
		stdin:   console.In,
		stdout:  console.Out,
		stderr:  console.Err,
		outFile: console.Out,
		inTTY:   term.IsTerminal(int(console.In.Fd())),
		outTTY:  term.IsTerminal(int(console.Out.Fd())),
		errTTY:  term.IsTerminal(int(console.Err.Fd())),
		now:     time.Now,
	}
	if s.outTTY || s.errTTY {
		enableEscapes(console.Out, console.Err)
	}
	s.app = newApp(s)
	return s.report(ctx, s.run(ctx, args))
}

func (s *session) run(ctx context.Context, args []string) error {
	inv, err := parse(s.app, args)
	if err != nil {
		return err
	}
	if inv.help {
		return s.printHelp(inv.path)
	}
	if len(inv.path) > 0 && len(inv.leaf().Subcommands) > 0 {
		return usageError(inv.name()+" --help", "%s needs a verb: %s", inv.name(), verbs(inv.leaf().Subcommands))
	}
	s.trailing = inv.trailing
	return s.app.RunContext(ctx, inv.argv())
}

// newApp builds the tree of verbs. It is built anew for every run, because
// flags of urfave/cli keep what was parsed into them.
func newApp(s *session) *cli.App {
	app := &cli.App{
		Name:                      "skein",
		Usage:                     "run containers on a handful of machines",
		Flags:                     globalFlags(),
		Writer:                    s.stdout,
		ErrWriter:                 s.stderr,
		HideHelp:                  true, // help is ours: examples come first
		HideVersion:               true,
		DisableSliceFlagSeparator: true, // "--env A=1,2" is one variable
		ExitErrHandler:            func(*cli.Context, error) {},
		Commands: []*cli.Command{
			s.getCommand(), s.describeCommand(), s.statusCommand(), s.eventsCommand(), s.logsCommand(),
			s.runCommand(), s.exposeCommand(), s.applyCommand(), s.deleteCommand(), s.scaleCommand(), s.setCommand(),
			s.restartCommand(), s.labelCommand(),
			s.topCommand(),
			s.doctorCommand(),
			s.execCommand(), s.attachCommand(), s.copyCommand(), s.forwardCommand(),
			s.nodeCommand(), s.tokenCommand(),
			s.imageCommand(), s.snapshotCommand(),
			s.ctxCommand(), s.versionCommand(), s.completionCommand(), s.completeCommand(),
		},
	}
	app.OnUsageError = onUsageError
	each(app.Commands, func(c *cli.Command) {
		c.HideHelp = true
		c.HideHelpCommand = true
		c.OnUsageError = onUsageError
	})
	return app
}

// each calls f for every command below, parents first.
func each(commands []*cli.Command, f func(*cli.Command)) {
	for _, c := range commands {
		f(c)
		each(c.Subcommands, f)
	}
}

// The groups of "skein --help", in this order.
const (
	groupSee      = "See"
	groupChange   = "Change"
	groupInside   = "Inside a container"
	groupMachines = "Machines"
	groupImages   = "Images"
	groupCluster  = "Cluster"
)

var groups = []string{groupSee, groupChange, groupInside, groupMachines, groupImages, groupCluster}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, EnvVars: []string{"SKEIN_NAMESPACE"}, Usage: "look in `NAMESPACE` instead of the context's own"},
		&cli.StringFlag{Name: "context", EnvVars: []string{"SKEIN_CONTEXT"}, Usage: "use the context `NAME` instead of the current one"},
		&cli.StringFlag{Name: "server", EnvVars: []string{"SKEIN_SERVER"}, Usage: "any node's API, as `URL` https://HOST:PORT"},
		&cli.StringFlag{Name: "token", EnvVars: []string{"SKEIN_TOKEN"}, Usage: "who you are: a `TOKEN` of \"skein token create --role\""},
		&cli.StringFlag{Name: "ca", EnvVars: []string{"SKEIN_CA"}, Usage: "`FILE` with the cluster's CA certificate, PEM"},
		&cli.StringFlag{Name: "socket", EnvVars: []string{"SKEIN_SOCKET"}, Usage: "`PATH` of the agent's socket on this machine"},
	}
}
