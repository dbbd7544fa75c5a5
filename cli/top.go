package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) topCommand() *cli.Command {
	sortFlag := func() cli.Flag {
		return &cli.StringFlag{Name: "sort-by", Usage: "the largest first: `WHAT` is cpu or memory; else by name"}
	}
	header := func() cli.Flag { return &cli.BoolFlag{Name: "no-headers", Usage: "without the line of headers"} }
	return &cli.Command{
		Name:     "top",
		Category: groupSee,
		Usage:    "what nodes and Pods use now",
		Subcommands: []*cli.Command{
			{
				Name: "nodes", Aliases: []string{"node", "no"}, ArgsUsage: "[NODE]",
				Usage: "CPU and memory of the machines",
				UsageText: `skein top nodes
skein top nodes --sort-by memory`,
				Flags:  []cli.Flag{selectorFlag(), sortFlag(), header()},
				Action: func(c *cli.Context) error { return s.top(c, "nodes") },
			},
			{
				Name: "pods", Aliases: []string{"pod", "po"}, ArgsUsage: "[POD]",
				Usage: "CPU and memory of Pods",
				UsageText: `skein top pods
skein top pods -A --sort-by cpu       of all namespaces, the busiest first
skein top pods -l app=web --containers`,
				Flags: []cli.Flag{
					selectorFlag(), &cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "of all namespaces"},
					&cli.BoolFlag{Name: "containers", Usage: "a line for each container"}, sortFlag(), header(),
				},
				Action: func(c *cli.Context) error { return s.top(c, "pods") },
			},
		},
	}
}

func (s *session) top(c *cli.Context, kind string) error {
	if c.NArg() > 1 {
		return tooMany(c, c.Args().Get(1))
	}
	if c.Args().Present() && c.String("selector") != "" {
		return usageError("usage: "+usageLine(c.Command), "a selector stands in place of a name")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.Top(c.Context, &skeinv1.TopRequest{
		Kind: kind, Namespace: cluster.namespace, AllNamespaces: c.Bool("all-namespaces"), Name: c.Args().First(),
		LabelSelector: c.String("selector"), Containers: c.Bool("containers"), SortBy: c.String("sort-by"),
	})
	if err != nil {
		return err
	}
	for _, n := range answer.GetNotices() {
		fmt.Fprintf(s.stderr, "note: %s\n", clean(n))
	}
	if len(answer.GetTable().GetRows()) == 0 {
		fmt.Fprintf(s.stderr, "no %s use anything%s\n", strings.TrimSuffix(kind, "s")+"s", within(cluster, kind, c.Bool("all-namespaces")))
		return nil
	}
	g := &grid{columns: answer.GetTable().GetColumns(), now: s.now}
	var rows [][]string
	for _, row := range answer.GetTable().GetRows() {
		rows = append(rows, g.cells(row))
	}
	return g.write(s.stdout, !c.Bool("no-headers"), rows)
}

func within(cluster *cluster, kind string, all bool) string {
	if all || kind == "nodes" {
		return ""
	}
	return " in namespace " + cluster.namespace
}
