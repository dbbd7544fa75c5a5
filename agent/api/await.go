package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// awaitDefault bounds an Await that names no time.
const awaitDefault = 2 * time.Minute

// Await follows an object until it is as wanted and says on the way what
// changes. It looks again at every change of what it watches, never by the clock.
func (c *cluster) Await(ctx context.Context, req *skeinv1.AwaitRequest, stream skeinv1connect.ClusterServiceAwaitServerStream) error {
	if err := need(ctx, RoleView); err != nil {
		return err
	}
	ref, kind, err := c.resolve(req.GetObject())
	if err != nil {
		return err
	}
	timeout := time.Duration(req.GetTimeoutMs()) * time.Millisecond
	if timeout <= 0 {
		timeout = awaitDefault
	}
	store := c.cfg.Consensus.Store()
	watch := store.Changed(watched(kind, ref)...)
	defer watch.Close()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	told := &teller{send: stream.Send, seen: map[string]bool{}}
	pulls := c.newPullsOf(ctx)
	defer pulls.close()
	for first := true; ; first = false {
		look, err := c.lookAt(kind, ref, req)
		if err != nil {
			return err
		}
		if first {
			told.know(look.was)
		}
		if err := pulls.last(look.done, stream.Send); err != nil {
			return err
		}
		if err := told.tell(look); err != nil {
			return err
		}
		if look.done {
			return nil
		}
		if err := pulls.until(ctx, watch.C(), timer.C, look, stream.Send); err != nil {
			if errors.Is(err, errTooLate) {
				return told.send(c.tooLate(ctx, look, ref, timeout))
			}
			return err
		}
		if !c.cfg.Consensus.IsLeader() {
			return refuse(connect.CodeUnavailable, exitNoLeader, "what was asked for goes on; see it with \"skein get "+ref.GetKind()+" "+ref.GetName()+"\"",
				"this node leads no more")
		}
	}
}

func podsNamespace(kind object.Kind, ref *skeinv1.ObjectRef) string {
	if kind.Name == object.KindNamespace {
		return ref.GetName()
	}
	return ref.GetNamespace()
}

// A sight is what an object looks like on the way to what is wanted.
type sight struct {
	summary string
	lines   []string // facts, each told once
	was     []string // those of them that are no news when they are there from the start
	done    bool
	exit    int32
	err     string
	hint    string
	stuck   []*corev1.Pod // the Pods that hold it up, worst first
}

// teller says each line once and the summary when it changes.
type teller struct {
	send    func(*skeinv1.AwaitResponse) error
	seen    map[string]bool
	summary string
}

// know keeps lines from being told.
func (t *teller) know(lines []string) {
	for _, line := range lines {
		t.seen[line] = true
	}
}

func (t *teller) tell(s sight) error {
	for _, line := range s.lines {
		if t.seen[line] {
			continue
		}
		t.seen[line] = true
		if err := t.send(&skeinv1.AwaitResponse{Line: line}); err != nil {
			return err
		}
	}
	if s.done {
		return t.send(&skeinv1.AwaitResponse{Summary: s.summary, Done: true, ExitCode: s.exit, Error: s.err, Hint: s.hint})
	}
	if s.summary == t.summary {
		return nil
	}
	t.summary = s.summary
	return t.send(&skeinv1.AwaitResponse{Summary: s.summary})
}

// lookAt sees how far an object is.
func (c *cluster) lookAt(kind object.Kind, ref *skeinv1.ObjectRef, req *skeinv1.AwaitRequest) (sight, error) {
	row, ok := c.cfg.Consensus.Store().Get(state.Key{Kind: kind.Name, Namespace: ref.GetNamespace(), Name: ref.GetName()})
	if req.GetGone() {
		return c.lookGone(kind, ref, ok)
	}
	if !ok {
		return sight{}, notFound(ref)
	}
	switch kind.Name {
	case object.KindDeployment:
		d, err := object.Decode[appsv1.Deployment](row)
		if err != nil {
			return sight{}, err
		}
		return c.lookDeployment(d, req.GetGeneration())
	case object.KindPod:
		p, err := object.Decode[corev1.Pod](row)
		if err != nil {
			return sight{}, err
		}
		return lookPod(p), nil
	case object.KindService:
		svc, err := object.Decode[corev1.Service](row)
		if err != nil {
			return sight{}, err
		}
		return c.lookService(svc)
	}
	return sight{done: true}, nil
}

func (c *cluster) lookGone(kind object.Kind, ref *skeinv1.ObjectRef, there bool) (sight, error) {
	var left []*corev1.Pod
	switch kind.Name {
	case object.KindDeployment:
		pods, err := c.pods(ref.GetNamespace(), "", nil)
		if err != nil {
			return sight{}, err
		}
		for _, p := range pods {
			if p.DeletionTimestamp != nil && revisionOf(p, ref.GetName()) {
				left = append(left, p)
			}
		}
	case object.KindNamespace:
		pods, err := c.pods(ref.GetName(), "", nil)
		if err != nil {
			return sight{}, err
		}
		left = pods
	}
	if !there && len(left) == 0 {
		return sight{done: true, summary: "gone"}, nil
	}
	if len(left) == 0 {
		return sight{summary: "stopping"}, nil
	}
	return sight{summary: plural(len(left), "Pod") + " still stopping", stuck: left}, nil
}

// revisionOf tells whether a Pod is of a revision of the deployment.
func revisionOf(p *corev1.Pod, deployment string) bool {
	for _, o := range p.OwnerReferences {
		name, _, ok := cutLast(o.Name, "-")
		if o.Kind == object.KindRevision && ok && name == deployment {
			return true
		}
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func (c *cluster) lookDeployment(d *appsv1.Deployment, generation int64) (sight, error) {
	pods, err := c.podsOfDeployment(d)
	if err != nil {
		return sight{}, err
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	st := d.Status
	s := sight{summary: fmt.Sprintf("%d of %d ready", st.UpdatedReplicas-max(0, st.UpdatedReplicas-st.AvailableReplicas), want)}
	observed := st.ObservedGeneration >= max(generation, d.Generation)
	if !observed {
		s.summary = "" // the numbers are those of what was wanted before
	}
	for _, p := range pods {
		s.lines = append(s.lines, facts(p)...)
		if podReady(p) {
			s.was = append(s.was, facts(p)...)
		} else {
			s.stuck = append(s.stuck, p)
		}
	}
	slices.SortStableFunc(s.stuck, func(a, b *corev1.Pod) int { return trouble(b) - trouble(a) })
	s.done = observed && st.Replicas == want && st.UpdatedReplicas == want && st.AvailableReplicas == want && len(pods) == int(want)
	return s, nil
}

func lookPod(p *corev1.Pod) sight {
	s := sight{summary: string(p.Status.Phase), lines: facts(p)}
	switch {
	case podReady(p) || p.Status.Phase == corev1.PodSucceeded:
		s.done, s.was = true, s.lines
	case p.Status.Phase == corev1.PodFailed:
		s.done, s.exit = true, exitFailed
		s.err = fmt.Sprintf("pod/%s has failed: %s", p.Name, complaint(p))
		s.hint = "see its output with \"skein logs " + p.Name + inOther(p.Namespace) + "\""
	default:
		s.stuck = []*corev1.Pod{p}
	}
	return s
}

// facts are what a person wants to hear of a Pod while waiting.
func facts(p *corev1.Pod) []string {
	var out []string
	name := "pod/" + p.Name
	if podReady(p) {
		return []string{name + " is ready on " + p.Spec.NodeName}
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
			out = append(out, name+" is not placed: "+cond.Message)
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			reason := w.Reason
			if w.Message != "" && w.Reason != "CrashLoopBackOff" {
				reason += ": " + w.Message
			}
			out = append(out, name+" waits: "+reason)
		}
		if t := s.LastTerminationState.Terminated; t != nil {
			out = append(out, fmt.Sprintf("%s: container %s has ended with exit code %d (%s)", name, s.Name, t.ExitCode, t.Reason))
		}
	}
	return out
}

// trouble orders Pods by how much they need a person.
func trouble(p *corev1.Pod) int {
	for _, s := range p.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "ContainerCreating" {
			return 3
		}
		if s.LastTerminationState.Terminated != nil {
			return 2
		}
	}
	if p.Spec.NodeName == "" {
		return 1
	}
	return 0
}

// complaint says why a Pod is not ready, in one line.
func complaint(p *corev1.Pod) string {
	if p.Status.Reason != "" || p.Status.Message != "" {
		return strings.TrimSpace(p.Status.Reason + " " + p.Status.Message)
	}
	for _, cs := range p.Status.ContainerStatuses {
		if t := cs.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("container %s ended with exit code %d (%s)", cs.Name, t.ExitCode, t.Reason)
		}
	}
	for _, t := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodReady} {
		for _, cond := range p.Status.Conditions {
			if cond.Type == t && cond.Status == corev1.ConditionFalse {
				return cond.Message
			}
		}
	}
	return "nothing is known yet"
}

// tooLate ends an Await at its deadline, with the one Pod that explains it best.
func (c *cluster) tooLate(ctx context.Context, s sight, ref *skeinv1.ObjectRef, timeout time.Duration) *skeinv1.AwaitResponse {
	out := &skeinv1.AwaitResponse{
		Done: true, ExitCode: exitPending, Summary: s.summary,
		Error: fmt.Sprintf("%s/%s is not as wanted after %s (%s); it stays accepted", ref.GetKind(), ref.GetName(), spell(timeout), cmp.Or(s.summary, "not begun")),
		Hint:  "see why with \"skein describe " + ref.GetKind() + "/" + ref.GetName() + inOther(ref.GetNamespace()) + "\"",
	}
	if len(s.stuck) == 0 {
		return out
	}
	worst := s.stuck[0]
	if ref.GetKind() == "pod" && ref.GetName() == worst.Name {
		out.Error += ": " + complaint(worst)
	} else {
		out.Error += fmt.Sprintf("; pod/%s: %s", worst.Name, complaint(worst))
	}
	if worst.Spec.NodeName != "" {
		if lines := c.tail(ctx, worst, 10); len(lines) > 0 {
			out.Line = "last output of pod " + worst.Name + ":\n  " + strings.Join(lines, "\n  ")
		}
	}
	out.Hint = "see more with \"skein describe pod/" + worst.Name + inOther(ref.GetNamespace()) + "\""
	return out
}

// spell writes a time to wait without zeros that say nothing: 2m, 4.9s.
func spell(d time.Duration) string {
	text := d.Round(100 * time.Millisecond).String()
	if cut, ok := strings.CutSuffix(text, "m0s"); ok {
		text = cut + "m"
	}
	if cut, ok := strings.CutSuffix(text, "h0m"); ok {
		text = cut + "h"
	}
	return text
}

// plural counts things: "1 Pod", "2 Pods".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func podReady(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}
