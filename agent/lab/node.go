package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A launch is a keeper that was just started.
type launch struct {
	node *node
	done chan struct{} // closed when it has ended
}

// start starts a node's keeper, and with it the agent, inside its namespace. It
// outlives this process. how tells what to do where there is no data yet.
func (l *Lab) start(n *node, how ...string) (*launch, error) {
	if err := l.attach(context.Background(), n); err != nil { //nolint:contextcheck // bounded by itself, and to be done whole
		return nil, err
	}
	if err := os.MkdirAll(l.keeperDir(n), 0o700); err != nil {
		return nil, fmt.Errorf("make the directories of node %s: %w", n.Name, err)
	}
	if err := os.Remove(l.holdFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	log, err := os.OpenFile(l.agentLog(n), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of node %s: %w", n.Name, err)
	}
	defer func() { _ = log.Close() }()
	args := []string{
		"run", "--name", n.Name, "--data-dir", l.dataDir(n), "--socket", l.socket(n),
		"--listen", fmt.Sprintf("0.0.0.0:%d", apiPort), "--advertise", n.advertise(),
		"--cgroup-parent", l.cgroup(n), "--demo-images", "--way-out", l.egress(),
	}
	cmd := exec.Command(l.exe, append(args, how...)...) //nolint:gosec // this very program
	cmd.Dir = "/"
	cmd.Env = plainEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := inside(l.namespace(n), cmd.Start); err != nil {
		return nil, fmt.Errorf("start node %s: %w", n.Name, err)
	}
	out := &launch{node: n, done: make(chan struct{})}
	go func() { // ends with the child, or with this process
		_ = cmd.Wait() // how it ended is in its log
		close(out.done)
	}()
	return out, nil
}

func (w *launch) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// plainEnv is the environment without what would set a flag of every agent.
func plainEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "SKEIN_") && !strings.HasPrefix(kv, "SKEIN_LOG_")
	})
}

func (l *Lab) keeper(n *node) (process, bool) {
	return readPID(filepath.Join(l.keeperDir(n), "keeper.pid"), l.namespace(n))
}

func (l *Lab) agent(n *node) (process, bool) {
	return readPID(filepath.Join(l.keeperDir(n), "agent.pid"), l.namespace(n))
}

func (l *Lab) held(n *node) bool {
	_, err := os.Stat(l.holdFile(n))
	return err == nil
}

// removed tells whether the agent of a node has learned that it is not in the
// cluster any more. Its data stays until the lab goes.
func (l *Lab) removed(n *node) bool {
	_, err := os.Stat(filepath.Join(l.dataDir(n), "removed"))
	return err == nil
}

// awaitAPI waits until the agent of a node answers on its socket, or has ended
// because the node was removed from the cluster meanwhile.
func (l *Lab) awaitAPI(ctx context.Context, w *launch) error {
	if until(ctx, startWait, func() bool { return w.ended() || l.answers(ctx, w.node) }) && !w.ended() {
		return nil
	}
	if l.removed(w.node) {
		l.say("%s was removed from the cluster: it runs nothing", w.node.Name)
		return nil
	}
	return l.notUp(ctx, w)
}

// notUp says why a node is not there, by its own last words.
func (l *Lab) notUp(ctx context.Context, w *launch) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	what := "does not answer"
	if w.ended() {
		what = "has ended at once"
	}
	words := lastLine(l.agentLog(w.node))
	if words == "" {
		words = "it has logged nothing"
	}
	return fault("read "+l.agentLog(w.node)+", and end the lab with \"skeind lab down"+l.flag()+"\"", "the agent of node %s %s: %s", w.node.Name, what, words)
}

// lastLine is the end of a log, cut to what fits a line.
func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	last := lines[len(lines)-1]
	return last[:min(len(last), 300)]
}

// Kill takes the power from a node: nothing that it or its kernel might still
// want to say gets out.
func (l *Lab) Kill(ctx context.Context, name string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	if err := l.unplug(n); err != nil {
		return err
	}
	n.Killed = true
	l.freeDisks(n)
	if err := l.save(); err != nil {
		return err
	}
	for _, find := range []func(*node) (process, bool){l.keeper, l.agent} { // the keeper first: it would start another agent
		if p, ok := find(n); ok {
			if err := p.kill(); err != nil {
				return err
			}
		}
	}
	if err := l.clear(ctx, n); err != nil {
		return fmt.Errorf("kill node %s: %w", name, err)
	}
	return nil
}

// clear removes what no machine keeps without power: processes, cgroups, mounts
// and what lies in memory.
func (l *Lab) clear(ctx context.Context, n *node) error {
	if err := exterminate(ctx, func() ([]process, error) { return residents(l.namespace(n)) }); err != nil {
		return err
	}
	if err := l.clearCgroup(ctx, l.cgroup(n)); err != nil {
		return err
	}
	if err := errors.Join(clearUsers(l.dataDir(n)), unmountBelow(l.nodeDir(n))); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(l.dataDir(n), "run"))
}

func (l *Lab) clearCgroup(ctx context.Context, path string) error {
	if err := exterminate(ctx, func() ([]process, error) { return members(path) }); err != nil {
		return err
	}
	var err error
	if until(ctx, killWait, func() bool { err = removeCgroup(path); return err == nil }) {
		return nil
	}
	return err
}

// Stop ends a node's agent alone, as a crash would. Its containers run on.
func (l *Lab) Stop(ctx context.Context, name string) error {
	n, err := l.powered(name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.holdFile(n), nil, 0o600); err != nil {
		return fmt.Errorf("hold the agent of node %s: %w", name, err)
	}
	err = exterminate(ctx, func() ([]process, error) {
		if p, ok := l.agent(n); ok {
			return []process{p}, nil
		}
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("stop the agent of node %s: %w", name, err)
	}
	return nil
}

// Start lets a node's agent run again, and waits until it answers.
func (l *Lab) Start(ctx context.Context, name string) error {
	n, err := l.powered(name)
	if err != nil {
		return err
	}
	if _, ok := l.keeper(n); !ok {
		w, err := l.start(n)
		if err != nil {
			return err
		}
		return l.awaitAPI(ctx, w)
	}
	if err := os.Remove(l.holdFile(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("let the agent of node %s go: %w", name, err)
	}
	return l.awaitAPI(ctx, &launch{node: n, done: make(chan struct{})})
}

func (l *Lab) powered(name string) (*node, error) {
	n, err := l.node(name)
	if err == nil && n.Killed {
		err = fault("give it power with \"skeind lab heal"+l.flag()+"\"", "node %s was killed: it has no agent", name)
	}
	if err == nil && l.removed(n) {
		err = fault("a lab that is whole is made anew with \"skeind lab down"+l.flag()+"\" and \"skeind lab up"+l.flag()+"\"", "node %s was removed from the cluster: it has no agent", name)
	}
	return n, err
}
