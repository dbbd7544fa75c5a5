package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:     "doctor",
		Category: groupSee,
		Usage:    "look for what is wrong, and say what to do about it",
		Subcommands: []*cli.Command{{
			Name:  "net",
			Usage: "compare what every node believes of the network, and try it by real packets",
			UsageText: `skein doctor net
skein doctor net && echo well         exit code 1 where something is wrong`,
			Action: s.doctorNet,
		}},
	}
}

func (s *session) doctorNet(c *cli.Context) error {
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.Doctor(c.Context, &skeinv1.DoctorRequest{})
	if err != nil {
		return err
	}
	for _, f := range answer.GetFindings() {
		fmt.Fprintf(s.stdout, "%s: %s\n", clean(f.GetNode()), clean(f.GetText()))
		if f.GetHint() != "" {
			fmt.Fprintf(s.stdout, "  %s\n", clean(f.GetHint()))
		}
	}
	for _, line := range answer.GetSummary() {
		fmt.Fprintf(s.stderr, "looked at %s\n", clean(line))
	}
	switch n := len(answer.GetFindings()); n {
	case 0:
		_, err = fmt.Fprintln(s.stdout, "nothing is wrong with the network")
		return err
	case 1:
		return failed("", "one thing is wrong with the network")
	default:
		return failed("", "%d things are wrong with the network", n)
	}
}
