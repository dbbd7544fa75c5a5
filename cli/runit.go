package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// removeWait is how long the Pod of "run --rm" may take to be deleted, also
// when the person has given up.
const removeWait = 10 * time.Second

// pod is what "run -it" makes in the place of a Deployment.
type pod struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Metadata   meta    `json:"metadata"`
	Spec       podOnce `json:"spec"`
}

type podOnce struct {
	RestartPolicy string         `json:"restartPolicy"`
	Containers    []interactable `json:"containers"`
}

type interactable struct {
	container
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`
	TTY       bool `json:"tty,omitempty"`
}

// attaches says whether run is to make one Pod and join it.
func attaches(c *cli.Context) bool { return c.Bool("stdin") || c.Bool("tty") || c.Bool("rm") }

// runAttached runs one Pod, joins it, and ends with its exit code.
func (s *session) runAttached(c *cli.Context) error {
	if c.Int("replicas") != 1 || c.Bool("no-wait") {
		return usageError("usage: "+usageLine(c.Command), "-i, -t and --rm run one Pod and wait for its end")
	}
	name := c.Args().First()
	main, err := s.runContainer(c)
	if err != nil {
		return err
	}
	tty := c.Bool("tty")
	if tty && c.Bool("stdin") && !s.inTTY {
		fmt.Fprintln(s.stderr, "warning: standard input is no terminal; going on without one")
		tty = false
	}
	document, err := json.Marshal(pod{
		APIVersion: "v1", Kind: "Pod", Metadata: meta{Name: name, Namespace: c.String("namespace"), Labels: map[string]string{"app": name}},
		Spec: podOnce{RestartPolicy: "Never", Containers: []interactable{{
			container: main, Stdin: c.Bool("stdin"), StdinOnce: c.Bool("stdin"), TTY: tty,
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode the pod: %w", err)
	}
	if format := c.String("output"); format != "" {
		return s.printManifest(c, document, format)
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	answer, err := cluster.Apply(c.Context, &skeinv1.ApplyRequest{
		Manifest: document, Filename: "run " + name, Namespace: cluster.namespace, CreateOnly: true, DryRun: c.Bool("dry-run"),
	})
	if err != nil || c.Bool("dry-run") {
		return err
	}
	ref := &skeinv1.ObjectRef{Kind: "pod", Namespace: cluster.namespace, Name: name}
	if c.Bool("rm") {
		defer s.removePod(c.Context, cluster, ref)
	}
	return s.joinPod(c, cluster, answer.GetApplied(), &skeinv1.AttachStart{Pod: ref, Stdin: c.Bool("stdin"), Replay: true}, tty)
}

// joinPod waits until a Pod runs and joins it. One that has ended by then tells
// the same, but for why it could not begin.
func (s *session) joinPod(c *cli.Context, cluster *cluster, applied []*skeinv1.Applied, start *skeinv1.AttachStart, tty bool) error {
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	waited := wait.all(c.Context, applied, false)
	if c.Context.Err() != nil {
		return waited
	}
	err = s.runAttach(c.Context, cluster, start, tty)
	var ended exitStatus
	if waited != nil && err != nil && !errors.As(err, &ended) {
		return waited
	}
	return err
}

// removePod deletes what "run --rm" has made, whatever became of it.
func (s *session) removePod(ctx context.Context, cluster *cluster, ref *skeinv1.ObjectRef) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWait)
	defer cancel()
	_, err := cluster.Delete(ctx, &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{ref}, GraceSeconds: 0, IgnoreNotFound: true})
	if err != nil {
		fmt.Fprintf(s.stderr, "warning: pod/%s is left: %s\n", ref.GetName(), clean(explain(err).message))
	}
}
