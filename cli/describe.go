package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) describeCommand() *cli.Command {
	return &cli.Command{
		Name:      "describe",
		Category:  groupSee,
		Usage:     "all that is known of an object, with its events",
		ArgsUsage: "KIND NAME… | KIND/NAME…",
		UsageText: `skein describe pod web-1
skein describe deploy/web node/n1`,
		Action: s.describe,
	}
}

func (s *session) describe(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "a kind and a name")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	refs, err := parseRefs(c.Args().Slice(), cluster.namespace)
	if err != nil {
		return err
	}
	var failures []error
	for i, ref := range refs {
		if ref.GetName() == "" {
			return missing(c, "a name")
		}
		answer, err := cluster.Describe(c.Context, &skeinv1.DescribeRequest{Object: ref})
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if i > 0 {
			fmt.Fprintln(s.stdout)
		}
		s.printText(answer)
	}
	return joinFailures(failures)
}

// printText prints what the server wrote for people.
func (s *session) printText(answer *skeinv1.TextResponse) {
	s.warnStale(answer.GetAgeMs(), answer.GetNote())
	fmt.Fprintln(s.stdout, strings.TrimRight(clean(answer.GetText()), "\n"))
}

func (s *session) statusCommand() *cli.Command {
	return &cli.Command{
		Name:     "status",
		Category: groupSee,
		Usage:    "the cluster on one screen",
		UsageText: `skein status                          nodes, leader, voters, what is not as wanted
skein status -o json                  the same facts for a program`,
		Description: "While the leader holds something back so that one trouble does not become another, it says which brake holds, since when, until when and why (in JSON: brakes). " +
			"Without a leader, all that shows objects answers from a voter's copy, or from what a node keeps for itself: a warning on standard error says how old that is and what it cannot tell (in JSON: ageMs and partial).",
		Flags:  []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` json"}},
		Action: s.status,
	}
}

func (s *session) status(c *cli.Context) error {
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.Status(c.Context, &skeinv1.StatusRequest{Json: asJSON})
	if err != nil {
		return err
	}
	if !asJSON {
		s.printText(answer)
		return nil
	}
	s.warnStale(answer.GetAgeMs(), answer.GetNote())
	_, err = s.stdout.Write(endLine(answer.GetJson()))
	return err
}

// wantJSON reads -o of verbs that know JSON and nothing else. It refuses
// arguments too: these verbs take none.
func wantJSON(c *cli.Context) (bool, error) {
	if c.Args().Present() {
		return false, tooMany(c, c.Args().First())
	}
	switch c.String("output") {
	case "":
		return false, nil
	case "json":
		return true, nil
	default:
		return false, usageError("", "there is no output format %q here: want json", c.String("output"))
	}
}
