package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) nodeCommand() *cli.Command {
	return &cli.Command{
		Name:     "node",
		Category: groupMachines,
		Usage:    "the machines of the cluster",
		Subcommands: []*cli.Command{
			{
				Name: "ls", Aliases: []string{"list"},
				Usage: "list them",
				UsageText: `skein node ls -o wide
skein node ls -l topology.kubernetes.io/zone=a`,
				Flags: append(outputFlags(), selectorFlag(), &cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "and then every change, until Ctrl-C"}),
				Action: func(c *cli.Context) error {
					return s.listKind(c, "nodes")
				},
			},
			{
				Name: "cordon", ArgsUsage: "NODE…", Usage: "place no more Pods there; what runs goes on",
				UsageText: "skein node cordon n1",
				Action:    func(c *cli.Context) error { return s.setUnschedulable(c, true, "cordoned") },
			},
			{
				Name: "uncordon", ArgsUsage: "NODE…", Usage: "place Pods there again",
				UsageText: "skein node uncordon n1",
				Action:    func(c *cli.Context) error { return s.setUnschedulable(c, nil, "uncordoned") },
			},
			{
				Name: "drain", ArgsUsage: "NODE", Usage: "cordon it and move its Pods elsewhere, and wait",
				UsageText: `skein node drain n1
skein node drain n1 --timeout 10m && ssh n1 reboot`,
				Flags:  waitFlags(),
				Action: s.drain,
			},
			{
				Name: "rm", Aliases: []string{"remove"}, ArgsUsage: "NODE", Usage: "take it out of the cluster for good",
				UsageText: `skein node drain n3 && skein node rm n3
skein node rm n3 --force              with what runs on it`,
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "force", Usage: "although it still has Pods"}},
				Action: s.removeNode,
			},
		},
	}
}

// listKind is "get KIND" under another name.
func (s *session) listKind(c *cli.Context, kind string) error {
	if c.Args().Present() {
		return tooMany(c, c.Args().First())
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	ref := &skeinv1.ObjectRef{Kind: kind, Namespace: cluster.namespace}
	return s.list(c, cluster, []*skeinv1.GetRequest{getRequest(c, ref)})
}

func (s *session) setUnschedulable(c *cli.Context, value any, did string) error {
	if !c.Args().Present() {
		return missing(c, "a node")
	}
	args := append([]string{"node"}, c.Args().Slice()...)
	return s.patchEach(c, args, map[string]any{"spec": map[string]any{"unschedulable": value}}, did)
}

func oneNode(c *cli.Context) (string, error) {
	switch c.NArg() {
	case 0:
		return "", missing(c, "a node")
	case 1:
		return c.Args().First(), nil
	default:
		return "", tooMany(c, c.Args().Get(1))
	}
}

func (s *session) drain(c *cli.Context) error {
	node, err := oneNode(c)
	if err != nil {
		return err
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	open := func(ctx context.Context, left time.Duration) (awaitStream, error) {
		return cluster.Drain(ctx, &skeinv1.DrainRequest{Node: node, TimeoutMs: left.Milliseconds()})
	}
	if wait.off {
		return s.beginDrain(c.Context, node, wait, open)
	}
	subject := "node/" + node
	if err := wait.follow(c.Context, subject, s.now().Add(wait.timeout), open); err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "%s drained\n", subject)
	return nil
}

// beginDrain stays until the first summary: by then every Pod was asked to leave.
func (s *session) beginDrain(ctx context.Context, node string, wait *waiting, open func(context.Context, time.Duration) (awaitStream, error)) error {
	stream, err := open(ctx, wait.timeout)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // what matters was said by Receive
	for {
		message, err := stream.Receive()
		if err != nil {
			return err
		}
		if message.GetDone() && message.GetExitCode() != 0 {
			return verdict("node/"+node, message)
		}
		if message.GetDone() || message.GetSummary() != "" {
			fmt.Fprintf(s.stdout, "node/%s draining\n", node)
			return nil
		}
	}
}

func (s *session) removeNode(c *cli.Context) error {
	node, err := oneNode(c)
	if err != nil {
		return err
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	response, err := cluster.RemoveNode(c.Context, &skeinv1.RemoveNodeRequest{Node: node, Force: c.Bool("force")})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.stdout, "node/%s removed\n", node)
	if message := response.GetMessage(); message != "" {
		fmt.Fprintln(s.stderr, clean(message))
	}
	return nil
}
