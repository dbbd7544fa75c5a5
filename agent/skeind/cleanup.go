package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/skein-dev/skein/agent"
	"github.com/skein-dev/skein/agent/lab"
)

func cleanupCommand() *cli.Command {
	return &cli.Command{
		Name:  "cleanup",
		Usage: "remove everything skein made on this machine, data last",
		UsageText: `skeind cleanup --yes
skeind cleanup --data-dir /srv/skein --yes`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-dir", Value: "/var/lib/skein", Usage: "the agent's `FOLDER` of state", EnvVars: []string{"SKEIN_DATA_DIR"}},
			&cli.StringFlag{Name: "socket", Value: "/run/skein/skein.sock", Usage: "`PATH` of the agent's socket", EnvVars: []string{"SKEIN_SOCKET"}},
			&cli.StringFlag{Name: "cgroup-parent", Value: "/skein", Hidden: true},
			&cli.BoolFlag{Name: "yes", Usage: "go ahead: the containers of this machine end, and its data is gone"},
		},
		Action: func(c *cli.Context) error {
			if !c.Bool("yes") {
				return &agent.UsageError{
					Text: fmt.Sprintf("this ends every container of skein on this machine and removes %s; nothing was changed", c.String("data-dir")),
					Hint: "say --yes to go ahead; \"skein node drain\" and \"skein node rm\" on another machine first keep the cluster in order",
				}
			}
			place := lab.Place{DataDir: c.String("data-dir"), Cgroup: c.String("cgroup-parent"), Socket: c.String("socket")}
			return lab.Clean(c.Context, place, os.Stdout)
		},
	}
}
