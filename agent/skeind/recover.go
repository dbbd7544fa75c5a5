package main

import (
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/skein-dev/skein/agent"
)

func recoverCommand() *cli.Command {
	return &cli.Command{
		Name:  "recover",
		Usage: "re-form a cluster most of whose voters are lost for good, on one that is left",
		UsageText: `skeind recover                        show what this machine holds and what may be lost
skeind recover --yes                  make it the only voter of a new epoch
skeind recover --peer-dir /mnt/disk2/var/lib/skein      look at another voter's disk, too`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-dir", Value: "/var/lib/skein", Usage: "the agent's `FOLDER` of state", EnvVars: []string{"SKEIN_DATA_DIR"}},
			&cli.StringSliceFlag{Name: "peer-dir", Usage: "the `FOLDER` of another voter's state, from its disk; several times for several"},
			&cli.BoolFlag{Name: "yes", Usage: "go ahead: what only the lost voters had is gone"},
			&cli.BoolFlag{Name: "force", Usage: "go ahead although a folder that was named holds more"},
		},
		Action: func(c *cli.Context) error {
			if os.Geteuid() != 0 {
				return &agent.UsageError{Text: "the agent's state is root's", Hint: "run it with sudo"}
			}
			return agent.Recover(c.Context, agent.Recovery{
				DataDir: c.String("data-dir"), PeerDirs: c.StringSlice("peer-dir"),
				Yes: c.Bool("yes"), Force: c.Bool("force"), Out: os.Stdout,
				Logger: slog.New(slog.DiscardHandler),
			})
		},
	}
}
