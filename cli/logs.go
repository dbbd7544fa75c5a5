package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Category:  groupSee,
		Usage:     "what containers wrote, replicas merged",
		ArgsUsage: "POD… | deploy/NAME… | -l SELECTOR",
		UsageText: `skein logs web-1                      one Pod
skein logs deploy/web -f              all its Pods, and what they go on to write
skein logs -l app=web --since 10m     those that a selector finds
skein logs web-1 -p --tail 20         the run before the last restart`,
		Flags: []cli.Flag{
			selectorFlag(),
			&cli.StringFlag{Name: "container", Aliases: []string{"c"}, Usage: "of the container `NAME` alone"},
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what is being written"},
			&cli.BoolFlag{Name: "previous", Aliases: []string{"p"}, Usage: "of the run before the last restart"},
			&cli.BoolFlag{Name: "all-containers", Usage: "of all containers, which is so without -c anyway"},
			&cli.StringFlag{Name: "since", Usage: "no older than `DURATION`"},
			&cli.StringFlag{Name: "since-time", Usage: "written since `TIME`, as 2026-01-02T15:04:05Z"},
			&cli.Int64Flag{Name: "tail", Value: -1, Usage: "the last `N` lines of each container; -1: all"},
			&cli.Int64Flag{Name: "limit-bytes", Usage: "at most `N` bytes in all; 0: no limit"},
			&cli.BoolFlag{Name: "timestamps", Usage: "with the time of each line"},
			&cli.BoolFlag{Name: "prefix", Usage: "say in front of each line which Pod wrote it; =false: never"},
		},
		Action: s.logs,
	}
}

func (s *session) logs(c *cli.Context) error {
	if !c.Args().Present() && c.String("selector") == "" {
		return missing(c, "a Pod")
	}
	if c.Args().Present() && c.String("selector") != "" {
		return usageError("usage: "+usageLine(c.Command), "a selector stands in place of names")
	}
	since, err := s.since(c)
	if err != nil {
		return err
	}
	if c.Bool("all-containers") && c.String("container") != "" {
		return usageError("usage: "+usageLine(c.Command), "--all-containers and -c contradict each other")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	request := &skeinv1.LogsRequest{
		Namespace: cluster.namespace, LabelSelector: c.String("selector"), Container: c.String("container"),
		Follow: c.Bool("follow"), Previous: c.Bool("previous"), SinceMs: since.Milliseconds(), TailLines: c.Int64("tail"),
		Batches: true,
	}
	for _, arg := range c.Args().Slice() {
		kind, name, ok := strings.Cut(arg, "/")
		if !ok {
			kind, name = "pod", arg
		}
		request.Objects = append(request.Objects, &skeinv1.ObjectRef{Kind: kind, Namespace: cluster.namespace, Name: name})
	}
	to := s.stdout
	if limit := c.Int64("limit-bytes"); limit > 0 {
		to = &limited{w: to, left: limit}
	}
	merged := &merged{
		session: s, w: bufio.NewWriterSize(to, 64<<10), times: c.Bool("timestamps"), colour: s.outTTY && colourful(),
		label: labelWhenSeveral, pods: map[string]*source{}, lines: map[string]*line{},
	}
	switch {
	case c.IsSet("prefix") && c.Bool("prefix"):
		merged.label = labelPod
	case c.IsSet("prefix"):
		merged.label = labelNever
	default:
		merged.label = cluster.logLabel(c.Context, request)
	}
	return merged.follow(c.Context, cluster, request)
}

// since is how far back to begin; 0: at the first line that is kept.
func (s *session) since(c *cli.Context) (time.Duration, error) {
	text := c.String("since-time")
	if text == "" {
		return parseDuration("--since", c.String("since"))
	}
	if c.String("since") != "" {
		return 0, usageError("usage: "+usageLine(c.Command), "--since and --since-time contradict each other")
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return 0, usageError("", "--since-time %q: want a time as 2026-01-02T15:04:05Z", text)
	}
	return max(time.Millisecond, s.now().Sub(at)), nil
}

// colourful honours https://no-color.org.
func colourful() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }

// What stands in front of a line.
type logLabel int

const (
	labelWhenSeveral logLabel = iota // the Pod, once a second one was seen
	labelPod
	labelContainer
	labelNever
)

// logLabel asks beforehand whether there is more than one source, so that the
// first line is labelled as all others are. What cannot be counted is left to
// what comes.
func (t *cluster) logLabel(ctx context.Context, request *skeinv1.LogsRequest) logLabel {
	refs := request.GetObjects()
	selector, replicas := request.GetLabelSelector(), 0
	switch {
	case len(refs) > 1:
		return labelPod
	case len(refs) == 1 && kindOf(refs[0].GetKind()).name == "Pod":
		names, err := containerNames(ctx, t, refs[0])
		if err == nil && len(names) > 1 && request.GetContainer() == "" {
			return labelContainer
		}
		return labelWhenSeveral
	case len(refs) == 1:
		object, _, err := t.read(ctx, refs[0])
		if err != nil {
			return labelWhenSeveral
		}
		labels, _ := field(object, "spec", "selector", "matchLabels").(map[string]any)
		for key, value := range labels {
			selector += fmt.Sprintf(",%s=%s", key, value)
		}
		selector = strings.TrimPrefix(selector, ",")
		number, _ := field(object, "spec", "replicas").(json.Number)
		wanted, _ := number.Int64()
		replicas = int(wanted)
	}
	if replicas > 1 {
		return labelPod
	}
	answer, err := t.Get(ctx, &skeinv1.GetRequest{
		Kind: "pods", Namespace: request.GetNamespace(), LabelSelector: selector, Format: skeinv1.Format_FORMAT_NAME,
	})
	if err == nil && selector != "" && strings.Count(string(answer.GetDocument()), "\n") > 1 {
		return labelPod
	}
	return labelWhenSeveral
}
