package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) deleteCommand() *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Category:  groupChange,
		Usage:     "delete objects, and wait until they are gone",
		ArgsUsage: "KIND NAME… | KIND/NAME… | KIND -l SELECTOR | -f FILE",
		UsageText: `skein delete deploy web               and its Pods
skein delete pod/web-1 pod/web-2      several, of any kind
skein delete pods -l app=web          all that a selector finds
skein delete -f web.yaml              what a manifest names`,
		Flags: append([]cli.Flag{
			fileFlag(),
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "folders with all below them"},
			selectorFlag(),
			&cli.Int64Flag{Name: "grace-period", Value: -1, Usage: "`SECONDS` for Pods to end by themselves; -1: what each asks for"},
			&cli.BoolFlag{Name: "ignore-not-found", Usage: "objects that are gone already are no failure"},
		}, waitFlags()...),
		Action: s.deleteObjects,
	}
}

func selectorFlag() cli.Flag {
	return &cli.StringFlag{Name: "selector", Aliases: []string{"l"}, Usage: "those whose labels match `SELECTOR`: app=web,tier!=db"}
}

func (s *session) deleteObjects(c *cli.Context) error {
	manifest, err := s.readManifests(c)
	if err != nil {
		return err
	}
	if manifest == nil && !c.Args().Present() {
		return missing(c, "something to delete")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	refs, err := parseRefs(c.Args().Slice(), cluster.namespace)
	if err != nil {
		return err
	}
	selector := c.String("selector")
	switch {
	case manifest != nil && len(refs) > 0:
		return tooMany(c, c.Args().First())
	case manifest == nil && refs[0].GetName() == "" && selector == "":
		return missing(c, "a name or a selector")
	case selector != "" && (manifest != nil || refs[0].GetName() != ""):
		return usageError("usage: "+usageLine(c.Command), "a selector goes with a kind alone")
	}
	request := &skeinv1.DeleteRequest{
		Objects: refs, Namespace: cluster.namespace, LabelSelector: selector,
		GraceSeconds: c.Int64("grace-period"), IgnoreNotFound: c.Bool("ignore-not-found"),
	}
	if manifest != nil {
		request.Manifest, request.Filename = manifest.data, manifest.name
	}
	response, err := cluster.Delete(c.Context, request)
	if err != nil {
		if manifest != nil {
			return manifest.locate(err)
		}
		return err
	}
	for _, object := range response.GetDeleted() {
		fmt.Fprintf(s.stdout, "%s deleted\n", clean(shown(object.GetObject())))
	}
	if len(response.GetDeleted()) == 0 {
		fmt.Fprintln(s.stderr, "nothing to delete")
	}
	return wait.all(c.Context, response.GetDeleted(), true)
}
