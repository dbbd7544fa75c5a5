//go:build lab

package labtest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A neighbour is a cluster of one node, of its own, on a lab's network.
type neighbour struct {
	lab  *lab
	dir  string
	said bytes.Buffer // whole once it has stopped
	stop func()
}

const (
	neighbourAddr = "10.213.0.1:7999"
	refusal       = "bad certificate" // is what a node logs of one of another cluster
)

// agent is the command of an agent in the network of n1, with its own data.
func (n *neighbour) agent(ctx context.Context, how ...string) *exec.Cmd {
	args := append([]string{
		"--net=/run/netns/skein-" + name + "-n1", filepath.Join(bin, "skeind"), "agent",
		"--name", "m1", "--data-dir", filepath.Join(n.dir, "data"), "--socket", filepath.Join(n.dir, "s"),
		"--cgroup-parent", "/skein-lab/" + name + "/m1", "--listen", "0.0.0.0:7999", "--advertise", neighbourAddr, "--log-level", "debug",
	}, how...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // nsenter has become skeind
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// run starts its agent and returns once it answers.
func (n *neighbour) run(how ...string) {
	n.lab.Helper()
	n.said.Reset()
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.lab.Context()))
	cmd := n.agent(ctx, how...)
	cmd.Stdout, cmd.Stderr = &n.said, &n.said
	if err := cmd.Start(); err != nil {
		n.lab.Fatal(err)
	}
	stopped := false
	n.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			_ = cmd.Wait() // it was told to end
		}
	}
	n.lab.Cleanup(func() {
		n.stop()
		n.unmount()
		if n.lab.Failed() {
			n.lab.Logf("the other cluster's agent\n%s", n.said.String())
		}
	})
	n.lab.await(20*time.Second, "the other cluster", func() string {
		got := n.skein("get", "nodes")
		if got.code != 0 {
			return got.err
		}
		return ""
	})
}

// unmount takes away what its agent has mounted below its folder.
func (n *neighbour) unmount() {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		n.lab.Error(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], n.dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				n.lab.Errorf("unmount %s: %v", f[4], err)
			}
		}
	}
}

// skein asks the other cluster, by its socket.
func (n *neighbour) skein(args ...string) result {
	n.lab.Helper()
	return n.lab.do(n.lab.command("skein", append([]string{"--server", "unix://" + filepath.Join(n.dir, "s")}, args...)...))
}

// own checks that two clusters are what they were, each with its one node.
func (n *neighbour) own(when string) {
	n.lab.Helper()
	if got := n.skein("get", "nodes", "-o", "name"); got.code != 0 || strings.Count(got.out, "\n") != 1 || !strings.Contains(got.out, "m1") {
		n.lab.Errorf("%s the other cluster has these nodes:\n%s%s", when, got.out, got.err)
	}
	if nodes := n.lab.nodes(); len(nodes) != 1 || readiness(nodes["n1"]) != "True AgentReady" {
		n.lab.Errorf("%s the lab has %d nodes, and n1 is %s", when, len(nodes), readiness(nodes["n1"]))
	}
}

func TestTwoClustersOnOneLinkStayTwo(t *testing.T) {
	l := raise(t, 1)
	n := &neighbour{lab: l, dir: t.TempDir()}
	n.run("--init")
	n.own("at first")
	token := l.token().Token
	n.stop()

	// One that has a cluster stays in it, whatever it is told to join.
	n.run("--join", "10.213.0.1:7373", "--token", token)
	n.own("told to join the other,")
	n.stop()

	// Its memory of who its peers are leads to the other cluster's door.
	path := filepath.Join(n.dir, "data", "identity", "identity.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	doc["peers"] = []map[string]string{{"name": "n1", "addr": "10.213.0.1:7373"}}
	if text, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	n.run()
	l.await(20*time.Second, "the lab's node turns it away", func() string {
		if !strings.Contains(l.agentLog("n1"), refusal) {
			return "its log says nothing"
		}
		return ""
	})
	n.own("with each other's address")
	n.stop()
	contains(l, "the other cluster's agent", n.said.String(), "certificate signed by unknown authority")
	for line := range strings.Lines(l.agentLog("n1")) {
		if strings.Contains(line, refusal) {
			t.Logf("the lab's node: %s", strings.TrimSpace(line))
			break
		}
	}

	// A newcomer with the token of one cluster at the door of the other.
	n.run()
	defer n.stop()
	dir := t.TempDir()
	got := l.do(l.command("skeind", "lab", "exec", "--name", name, "n1", "--", filepath.Join(bin, "skeind"), "agent",
		"--name", "stranger", "--data-dir", dir, "--socket", filepath.Join(dir, "s"), "--cgroup-parent", "/skein-lab/"+name+"/stranger",
		"--listen", "0.0.0.0:7998", "--advertise", "10.213.0.1:7998", "--join", neighbourAddr, "--token", token))
	if lines := strings.Split(strings.TrimSpace(got.err), "\n"); got.code == 0 || !strings.HasPrefix(lines[max(0, len(lines)-2)], "skeind: ") && !strings.HasPrefix(lines[len(lines)-1], "skeind: ") {
		t.Errorf("a token at the wrong door: exit code %d, want one line\n%s", got.code, got.err)
	}
	t.Logf("a token at the wrong door: %s", strings.TrimSpace(got.err))
	n.own("after a stranger came,")
}
