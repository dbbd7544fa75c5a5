package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) imageVerbs() []*cli.Command {
	return []*cli.Command{
		{
			Name: "ls", Aliases: []string{"list"}, Usage: "list those that the nodes hold",
			UsageText: `skein image ls
skein image ls -o wide          with the nodes that have them`,
			Flags:  append(outputFlags(), &cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "and then every change, until Ctrl-C"}),
			Action: s.listImages,
		},
		{
			Name: "pull", ArgsUsage: "IMAGE", Usage: "bring an image from its registry before Pods need it",
			UsageText: `skein image pull nginx:1.27               to one node; others take it from there
skein image pull nginx:1.27 --all         to all of them
skein image pull nginx:1.27 --node n2`,
			Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "node", Usage: "to this `NODE`; may be given more than once"},
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "to every node that is ready"},
			},
			Action: s.pullImage,
		},
		{
			Name: "push", ArgsUsage: "NAME[:TAG]", Usage: "hand the cluster an image, as far as it lacks it, without any registry",
			UsageText: `skein image push app:v3                   from this machine's docker or podman
skein image push app:v3 -f app.tar        from what "docker save" wrote
docker save app:v3 | skein image push app:v3 -f -`,
			Description: "Layers that any node has are not sent. The file is what \"docker save\" writes, or an OCI layout in a tar; plain or gzip.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "the `FILE`, or - for standard input"},
				&cli.StringFlag{Name: "node", Usage: "the `NODE` to keep it on; else any"},
			},
			Action: s.pushImage,
		},
		{
			Name: "rm", ArgsUsage: "IMAGE...", Usage: "take images away from all nodes",
			UsageText: `skein image rm web:v1
skein image rm web:v1 --force    though Pods use it: they run on with what they have`,
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "though Pods or Deployments use it"}},
			Action: s.removeImages,
		},
		{
			Name: "prune", Usage: "take away the images that no Pod and no Deployment needs",
			UsageText: `skein image prune --dry-run
skein image prune --older-than 168h     unused for a week
skein image prune --all                 also what could not be pulled again`,
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also images that were imported, of which this is the only copy"},
				&cli.DurationFlag{Name: "older-than", Usage: "those alone that were not used for this `TIME`"},
				&cli.BoolFlag{Name: "dry-run", Usage: "only say which"},
			},
			Action: s.pruneImages,
		},
	}
}

func (s *session) listImages(c *cli.Context) error {
	format := c.String("output")
	if c.Bool("watch") || c.Bool("quiet") || format != "" && format != "wide" {
		return s.listKind(c, "images")
	}
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.ListImages(c.Context, &skeinv1.ListImagesRequest{Wide: format == "wide", NoHeaders: c.Bool("no-headers")})
	if err != nil {
		return err
	}
	s.tellSilent(answer.GetSilent())
	if len(answer.GetImages()) == 0 {
		fmt.Fprintln(s.stderr, "no images")
		return nil
	}
	for line := range strings.Lines(string(answer.GetText())) {
		fmt.Fprintln(s.stdout, clean(strings.TrimRight(line, " \n")))
	}
	return nil
}

func (s *session) tellSilent(nodes []string) {
	if len(nodes) > 0 {
		fmt.Fprintf(s.stderr, "note: no answer from %s\n", clean(strings.Join(nodes, ", ")))
	}
}

func (s *session) pullImage(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "an image")
	}
	if c.NArg() > 1 {
		return tooMany(c, c.Args().Get(1))
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	stream, err := cluster.PullImage(c.Context, &skeinv1.PullImageRequest{
		Reference: c.Args().First(), Nodes: c.StringSlice("node"), All: c.Bool("all"),
	})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	progress := newProgress(s.stderr, s.errTTY, s.columns)
	var errs []error
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return joinFailures(errs)
		}
		if err != nil {
			return err
		}
		pull := msg.GetPull()
		progress.pulling(pull.GetNode(), []*skeinv1.ImagePull{pull})
		switch {
		case !pull.GetDone():
		case pull.GetError() != "":
			errs = append(errs, failed("see that the name is right, and that the node may pull it", "node %s: %s", clean(pull.GetNode()), clean(pull.GetError())))
		default:
			fmt.Fprintf(s.stdout, "%s is on %s\n", clean(pull.GetImage()), clean(pull.GetNode()))
		}
	}
}

func (s *session) removeImages(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "an image")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	for _, ref := range c.Args().Slice() {
		answer, err := cluster.RemoveImage(c.Context, &skeinv1.RemoveImageRequest{Reference: ref, Force: c.Bool("force")})
		if err != nil {
			return err
		}
		s.tellSilent(answer.GetSilent())
		var nodes []string
		for _, n := range answer.GetNodes() {
			nodes = append(nodes, n.GetNode())
		}
		where := "no node had it"
		if len(nodes) > 0 {
			where = "from " + strings.Join(nodes, ", ")
		}
		fmt.Fprintf(s.stdout, "%s removed (%s)\n", clean(ref), clean(where))
	}
	return nil
}

func (s *session) pruneImages(c *cli.Context) error {
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.PruneImages(c.Context, &skeinv1.PruneImagesRequest{
		All: c.Bool("all"), OlderThanMs: c.Duration("older-than").Milliseconds(), DryRun: c.Bool("dry-run"),
	})
	if err != nil {
		return err
	}
	s.tellSilent(answer.GetSilent())
	verb := "removed"
	if c.Bool("dry-run") {
		verb = "would be removed"
	}
	var n int
	var bytes int64
	for _, node := range answer.GetNodes() {
		for _, img := range node.GetImages() {
			n++
			bytes += img.GetSize()
			fmt.Fprintf(s.stdout, "%s  %s  %s %s\n", clean(node.GetNode()), clean(strings.Join(img.GetReferences(), ", ")), megabytes(img.GetSize()), verb)
		}
	}
	if n == 0 {
		fmt.Fprintln(s.stderr, "nothing to remove: all images are needed, or could not be had again")
		return nil
	}
	fmt.Fprintf(s.stdout, "%d %s, %s\n", n, verb, megabytes(bytes))
	return nil
}
