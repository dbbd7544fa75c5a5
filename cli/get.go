package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) getCommand() *cli.Command {
	return &cli.Command{
		Name:      "get",
		Category:  groupSee,
		Usage:     "list objects, or print one",
		ArgsUsage: "KIND[,KIND…] [NAME…] | KIND/NAME…",
		UsageText: `skein get pods                        those of the namespace; -A: of all
skein get pods -l app=web -o wide     with node, address and more
skein get pod web-1 -o yaml           one object, whole
skein get po,deploy                   several kinds
skein get pods -w                     and then every change`,
		Description: "KIND is singular, plural or short: " + kindWords() + ".",
		Flags:       listFlags(),
		Action:      s.get,
	}
}

func kindWords() string {
	var words []string
	for _, k := range kinds {
		word := k.words[1]
		if len(k.words) > 2 {
			word += " (" + k.words[2] + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

func outputFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FORMAT` wide, json, yaml or name"},
		&cli.BoolFlag{Name: "no-headers", Usage: "rows alone"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "names alone"},
	}
}

func listFlags() []cli.Flag {
	return append(outputFlags(),
		&cli.BoolFlag{Name: "all-namespaces", Aliases: []string{"A"}, Usage: "of all namespaces"},
		selectorFlag(),
		&cli.StringFlag{Name: "field-selector", Usage: "those whose fields match `SELECTOR`: spec.nodeName=n1"},
		&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "and then every change, until Ctrl-C"},
	)
}

var formats = map[string]skeinv1.Format{
	"":     skeinv1.Format_FORMAT_UNSPECIFIED,
	"wide": skeinv1.Format_FORMAT_WIDE,
	"json": skeinv1.Format_FORMAT_JSON,
	"yaml": skeinv1.Format_FORMAT_YAML,
	"name": skeinv1.Format_FORMAT_NAME,
}

// listing is how a person wants to see objects.
type listing struct {
	session *session
	format  skeinv1.Format
	header  bool
	quiet   bool
	all     bool // namespaces
	many    bool // kinds: rows say which
}

func (s *session) newListing(c *cli.Context) (*listing, error) {
	format, ok := formats[c.String("output")]
	if !ok {
		return nil, usageError("", "there is no output format %q: want wide, json, yaml or name", c.String("output"))
	}
	l := &listing{session: s, format: format, header: !c.Bool("no-headers"), quiet: c.Bool("quiet"), all: c.Bool("all-namespaces")}
	if l.quiet {
		if c.IsSet("output") {
			return nil, usageError("", "-q prints names alone; it does not go with -o")
		}
		l.header = false
	}
	return l, nil
}

func (l *listing) table() bool {
	return l.format == skeinv1.Format_FORMAT_UNSPECIFIED || l.format == skeinv1.Format_FORMAT_WIDE
}

func (s *session) get(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "a kind")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	requests, err := getRequests(c, cluster.namespace)
	if err != nil {
		return err
	}
	return s.list(c, cluster, requests)
}

// list answers requests, once or for as long as they are watched.
func (s *session) list(c *cli.Context, cluster *cluster, requests []*skeinv1.GetRequest) error {
	l, err := s.newListing(c)
	if err != nil {
		return err
	}
	for _, request := range requests {
		request.Format = l.format
		l.many = l.many || kindOf(request.GetKind()).name != kindOf(requests[0].GetKind()).name
	}
	if c.Bool("watch") {
		if len(requests) > 1 {
			return usageError("", "-w follows one kind, or one object")
		}
		return l.watch(c.Context, cluster, requests[0])
	}
	var answers []*skeinv1.GetResponse
	var failures []error
	for _, request := range requests {
		answer, err := cluster.Get(c.Context, request)
		if err != nil {
			if len(requests) == 1 || passing(err) || c.Context.Err() != nil {
				return err
			}
			failures = append(failures, err) // the others may be there
			continue
		}
		answers = append(answers, answer)
	}
	if len(answers) > 0 {
		worst := stalest(answers)
		s.warnStale(worst.GetAgeMs(), worst.GetNote())
		if err := l.print(answers, requests); err != nil {
			return err
		}
	}
	return joinFailures(failures)
}

func getRequests(c *cli.Context, namespace string) ([]*skeinv1.GetRequest, error) {
	args := c.Args().Slice()
	if strings.Contains(args[0], ",") {
		if len(args) > 1 {
			return nil, usageError("write each as KIND/NAME", "names go with one kind")
		}
		var requests []*skeinv1.GetRequest
		for word := range strings.SplitSeq(args[0], ",") {
			if word == "" || strings.Contains(word, "/") {
				return nil, usageError("usage: "+usageLine(c.Command), "%q: want KIND,KIND", args[0])
			}
			requests = append(requests, getRequest(c, &skeinv1.ObjectRef{Kind: word, Namespace: namespace}))
		}
		return requests, nil
	}
	refs, err := parseRefs(args, namespace)
	if err != nil {
		return nil, err
	}
	var requests []*skeinv1.GetRequest
	for _, ref := range refs {
		if ref.GetName() != "" && (c.Bool("all-namespaces") || c.String("selector") != "") {
			return nil, usageError("", "a name goes neither with -A nor with a selector")
		}
		requests = append(requests, getRequest(c, ref))
	}
	return requests, nil
}

func getRequest(c *cli.Context, ref *skeinv1.ObjectRef) *skeinv1.GetRequest {
	return &skeinv1.GetRequest{
		Kind: ref.GetKind(), Namespace: ref.GetNamespace(), Name: ref.GetName(), AllNamespaces: c.Bool("all-namespaces"),
		LabelSelector: c.String("selector"), FieldSelector: c.String("field-selector"),
	}
}

// warnStale says how old an answer is that no leader gave, and what it cannot
// tell.
func (s *session) warnStale(ageMs int64, note string) {
	switch {
	case ageMs < 0:
		fmt.Fprintln(s.stderr, "warning: no leader, and none was heard since the node started; how old this answer is nobody can tell")
	case ageMs > 0:
		d := time.Duration(ageMs) * time.Millisecond
		text := age(d)
		if d < time.Minute {
			text = fmt.Sprintf("%.1fs", d.Seconds())
		}
		fmt.Fprintf(s.stderr, "warning: no leader; this answer is %s old\n", text)
	}
	if note != "" {
		fmt.Fprintln(s.stderr, "warning: "+clean(note))
	}
}

// stalest is the answer of which to warn: one of unknown age before the oldest.
func stalest(answers []*skeinv1.GetResponse) *skeinv1.GetResponse {
	return slices.MaxFunc(answers, func(a, b *skeinv1.GetResponse) int {
		return cmp.Compare(uint64(a.GetAgeMs()), uint64(b.GetAgeMs())) //nolint:gosec // what is below 0 is meant to be the greatest
	})
}
