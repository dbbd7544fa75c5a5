package cli

import (
	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) eventsCommand() *cli.Command {
	flags := append(outputFlags(),
		&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "of all namespaces"},
		&cli.StringFlag{Name: "for", Usage: "about one object, `KIND/NAME`"},
		&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "and then every new one, until Ctrl-C"},
	)
	return &cli.Command{
		Name:     "events",
		Category: groupSee,
		Usage:    "what happened of late, and why",
		UsageText: `skein events                          of the namespace, the newest last
skein events --for pod/web-1          about one object
skein events -A -w                    all there are, and then as they happen`,
		Flags:  flags,
		Action: s.events,
	}
}

func (s *session) events(c *cli.Context) error {
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	request := &skeinv1.GetRequest{Kind: "events", Namespace: cluster.namespace, AllNamespaces: c.Bool("all-namespaces")}
	if c.IsSet("for") {
		refs, err := parseRefs([]string{c.String("for")}, cluster.namespace)
		if err != nil {
			return err
		}
		if refs[0].GetName() == "" {
			return usageError("", "--for %q: want KIND/NAME", c.String("for"))
		}
		k := kindOf(refs[0].GetKind())
		request.FieldSelector = "involvedObject.kind=" + k.name + ",involvedObject.name=" + refs[0].GetName()
		if k.clusterOwn {
			request.AllNamespaces = true // events about a node stand in some namespace
		}
	}
	return s.list(c, cluster, []*skeinv1.GetRequest{request})
}
