package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skein-dev/skein/agent"
	"github.com/skein-dev/skein/runtime/keeper"
)

// unit is the service as systemd wants it.
//
//go:embed skein.service
var unit string

const unitPath = "/usr/local/bin/skeind" // of this program, in unit

func unitCommand() *cli.Command {
	return &cli.Command{
		Name:      "unit",
		Usage:     "print the systemd unit that runs this program",
		UsageText: "skeind unit > /etc/systemd/system/skein.service",
		Action: func(c *cli.Context) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			_, err = fmt.Fprint(c.App.Writer, unitFor(self))
			return err
		},
	}
}

// unitFor is the unit for a program at a path.
func unitFor(program string) string { return strings.ReplaceAll(unit, unitPath, program) }

// reloadWithin bounds how long a new agent may take to serve.
const reloadWithin = 2 * time.Minute

func reloadCommand() *cli.Command {
	return &cli.Command{
		Name:  "reload",
		Usage: "take a new build of this program into use; containers run on",
		UsageText: `skeind reload
systemctl reload skein                         (which runs this)`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-dir", Value: "/var/lib/skein", Usage: "the agent's `FOLDER` of state", EnvVars: []string{"SKEIN_DATA_DIR"}},
		},
		Action: func(c *cli.Context) error {
			ctx, stop := context.WithTimeout(c.Context, reloadWithin)
			defer stop()
			return reload(ctx, keeper.Dir(filepath.Join(c.String("data-dir"), "keeper")))
		},
	}
}

// reload asks the build that will be executed whether it can work as it will be
// started, while the old one still runs.
func reload(ctx context.Context, dir keeper.Dir) error {
	argv, err := dir.ReloadArgs()
	if err != nil {
		return &agent.UsageError{Text: "no agent was started here that could be reloaded: " + err.Error(), Hint: "start it with \"skeind run\""}
	}
	check := exec.CommandContext(ctx, argv[0], append(argv[1:], "--check")...) //nolint:gosec // what runs here already
	if out, err := check.CombinedOutput(); err != nil {
		return fmt.Errorf("%s would not start, and nothing was changed: %w\n%s", argv[0], err, strings.TrimSpace(string(out)))
	}
	return dir.Replace(ctx)
}
