package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// How long an answer may take. In a lab it takes well under a millisecond; on a
// machine that is busy with other tests, longer. Where none is expected, we do
// not wait as long to find that there is none.
const (
	patience = 5 * time.Second
	silence  = 400 * time.Millisecond
)

// raiseLab makes a lab, and after the test checks that nothing is left of it.
func raiseLab(t *testing.T, nodes int) string {
	t.Helper()
	name := fmt.Sprintf("t%d-%d", os.Getpid(), time.Now().UnixNano()%1e9)
	if os.Getenv("SKEIN_CONFIG") == "" {
		t.Setenv("SKEIN_CONFIG", filepath.Join(t.TempDir(), "skein", "config.json"))
	}
	before := census(t, name)
	t.Cleanup(func() {
		if err := Down(context.WithoutCancel(t.Context()), name, t.Output()); err != nil {
			t.Errorf("down: %v", err)
		}
		var after []string
		until(t.Context(), 5*time.Second, func() bool { // the kernel takes links away when it finds time
			after = census(t, name)
			return slices.Equal(before, after)
		})
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("the lab has left something (-before +after):\n%s", diff)
		}
	})
	if err := Up(t.Context(), Order{Name: name, Nodes: nodes, Port: freePort(t), Out: t.Output()}); err != nil {
		t.Fatalf("up: %v", err)
	}
	return name
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// census lists what there is of a lab, and what it could disturb.
func census(t *testing.T, lab string) []string {
	t.Helper()
	var out []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		out = append(out, "link "+l.Name)
	}
	all, err := mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if strings.Contains(m.point, "skein-"+lab+"-") || strings.Contains(m.point, "/lab/"+lab) {
			out = append(out, "mount "+m.point)
		}
		if dir := filepath.Join(m.point, "skein-lab", lab); m.kind == "cgroup" || m.kind == "cgroup2" {
			if _, err := os.Stat(dir); err == nil {
				out = append(out, "cgroup "+dir)
			}
		}
	}
	for _, pattern := range []string{filepath.Join(rootDir, lab+"*"), netnsPath("skein-" + lab + "-*"), os.Getenv("SKEIN_CONFIG") + "*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		cmd, err := os.ReadFile(p)
		if err == nil && (bytes.Contains(cmd, []byte("/lab/"+lab+"/")) || bytes.Contains(cmd, []byte("\x00"+lab+"\x00"))) {
			out = append(out, "process "+string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
		}
	}
	return out
}

// change runs a command on a lab.
func onLab(t *testing.T, name string, do func(*Lab) error) {
	t.Helper()
	l, err := Open(t.Context(), name, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if err := do(l); err != nil {
		t.Fatal(err)
	}
}

func look(t *testing.T, name string) *Lab {
	t.Helper()
	l, err := Look(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// ask sends a datagram from one node to another and returns the answer: its
// name, "refused" where its kernel says so, or "silent".
func ask(t *testing.T, l *Lab, from, to int, wait time.Duration) string {
	t.Helper()
	var c net.Conn
	err := inside(l.namespace(newNode(from)), func() error {
		var err error
		c, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: newNode(to).addr().AsSlice(), Port: apiPort})
		return err
	})
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	b := make([]byte, 64)
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err = c.Write([]byte("who")); err == nil {
		var n int
		if n, err = c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	var late net.Error
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.As(err, &late) && late.Timeout():
		return "silent"
	}
	return err.Error()
}

// expectLinks asks everybody about everybody. All should answer, but for those
// that want names, as in "n1>n2": "silent".
func expectLinks(t *testing.T, when string, l *Lab, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for from := range len(l.Nodes) {
		for to := range len(l.Nodes) {
			name := newNode(to + 1).Name
			link, wait := newNode(from+1).Name+">"+name, patience
			if want[link] == "silent" {
				wait = silence
			}
			if answer := ask(t, l, from+1, to+1, wait); answer != name {
				got[link] = answer
			}
		}
	}
	expect(t, when, got, want)
}

func expect(t *testing.T, when string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

// states are how status calls the nodes.
func states(l *Lab) string {
	var out []string
	for _, r := range l.Status() {
		out = append(out, r.State+" "+r.Link)
	}
	return strings.Join(out, "; ")
}

func container(t *testing.T, l *Lab, node int) process {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(l.dataDir(newNode(node)), "container.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	p, _ := findProcess(pid)
	return p
}

func TestLabThroughItsWholeLife(t *testing.T) {
	name := raiseLab(t, 3)
	l := look(t, name)
	all := map[string]string{} // reach all
	expect(t, "after up", states(l), "running up; running up; running up")
	expectLinks(t, "after up", l, all)

	was := container(t, l, 2)
	begin := time.Now()
	onLab(t, name, func(l *Lab) error { return l.Kill(t.Context(), "n2") })
	t.Logf("kill took %v", time.Since(begin))
	l = look(t, name)
	expect(t, "after kill", states(l), "running up; killed down; running up")
	if was.PID == 0 || was.alive() {
		t.Errorf("container %+v of the killed node is alive", was)
	}
	for from := range 3 {
		if from != 1 {
			if got := ask(t, l, from+1, 2, silence); got != "silent" {
				t.Errorf("the killed node's kernel answers: %s", got)
			}
		}
	}

	onLab(t, name, func(l *Lab) error { return l.Heal(t.Context()) })
	l = look(t, name)
	expect(t, "after heal", states(l), "running up; running up; running up")
	expectLinks(t, "after heal", l, all)

	was = container(t, l, 3)
	onLab(t, name, func(l *Lab) error { return l.Stop(t.Context(), "n3") })
	l = look(t, name)
	expect(t, "after stop", states(l), "running up; running up; stopped up")
	expect(t, "after stop, n3's kernel", ask(t, l, 1, 3, patience), "refused")
	onLab(t, name, func(l *Lab) error { return l.Start(t.Context(), "n3") })
	l = look(t, name)
	expect(t, "after start", states(l), "running up; running up; running up")
	expect(t, "the container of a stopped agent", container(t, l, 3), was)
	if !was.alive() {
		t.Error("the container of a stopped agent has ended")
	}

	onLab(t, name, func(l *Lab) error { return l.Partition([][]string{{"n1", "n2"}, {"n3"}}) })
	l = look(t, name)
	expectLinks(t, "partitioned", l, map[string]string{"n1>n3": "silent", "n2>n3": "silent", "n3>n1": "silent", "n3>n2": "silent"})
	expect(t, "partitioned", states(l), "running up, cut off from n3; running up, cut off from n3; running up, cut off from n1,n2")
	onLab(t, name, func(l *Lab) error { return l.Heal(t.Context()) })
	expectLinks(t, "healed", look(t, name), all)
}

func TestUpAdoptsAndResumes(t *testing.T) {
	name := raiseLab(t, 2)
	l := look(t, name)
	pids := func() []int {
		var out []int
		for _, r := range l.Status() {
			out = append(out, r.PID)
		}
		return out
	}
	was := pids()
	kept, _ := l.forwarder()
	up := func(nodes int) error {
		return Up(t.Context(), Order{Name: name, Nodes: nodes, Out: t.Output()})
	}
	if err := up(0); err != nil {
		t.Fatal(err)
	}
	l = look(t, name)
	expect(t, "agents after a second up", pids(), was)
	if now, _ := l.forwarder(); now != kept {
		t.Errorf("the forwarder was %+v and is %+v", kept, now)
	}

	onLab(t, name, func(l *Lab) error { return l.Stop(t.Context(), "n2") })
	if err := up(0); err != nil {
		t.Fatal(err)
	}
	l = look(t, name)
	expect(t, "after up with a stopped agent", states(l), "running up; running up")

	// A machine that crashed: nothing runs, and links are as they were.
	onLab(t, name, func(l *Lab) error {
		for _, n := range l.Nodes {
			if err := l.clear(t.Context(), n); err != nil {
				return err
			}
		}
		return l.endForward(t.Context())
	})
	if err := up(3); err != nil { // and one more
		t.Fatal(err)
	}
	l = look(t, name)
	expect(t, "after a third up", states(l), "running up; running up; running up")
	expectLinks(t, "after a third up", l, map[string]string{})
	var e *Error
	if err := up(2); !errors.As(err, &e) || e.ExitCode() != 2 {
		t.Errorf("a lab of three shrank to two: %v", err)
	}
}

func TestSlowLosesAShareOfThePackets(t *testing.T) {
	name := raiseLab(t, 2)
	onLab(t, name, func(l *Lab) error { return l.Slow("n2", 0.3, 0) })
	l := look(t, name)
	var c *net.UDPConn
	err := inside(l.namespace(newNode(1)), func() error {
		var err error
		c, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: newNode(2).addr().AsSlice(), Port: apiPort})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	const asked = 1000
	answers := 0
	b := make([]byte, 64)
	for range asked {
		if _, err := c.Write([]byte("who")); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		if _, err := c.Read(b); err == nil {
			answers++
		}
	}
	if answers < 350 || answers > 600 { // 0.7 each way: 490
		t.Errorf("%d of %d questions were answered at 30 %% loss each way, want about 490", answers, asked)
	}
	expect(t, "slow", states(l), "running up; running up, loses 30%")
	onLab(t, name, func(l *Lab) error {
		var e *Error
		if err := l.Slow("n2", 0, 50*time.Millisecond); err != nil && (!errors.As(err, &e) || !strings.Contains(e.Hint(), "--loss")) {
			t.Errorf("delay where the kernel has no netem: %v", err)
		}
		return l.Heal(t.Context())
	})
	expectLinks(t, "healed", look(t, name), map[string]string{})
}

func TestForwarderFindsALivingAgent(t *testing.T) {
	name := raiseLab(t, 3)
	l := look(t, name)
	who := func() string {
		c, err := net.Dial("tcp4", loopback(l.Port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	first := who()
	if again := who(); first == "" || again != first {
		t.Errorf("first %q answered, then %q", first, again)
	}
	onLab(t, name, func(l *Lab) error { return l.Kill(t.Context(), first) })
	second := who()
	if second == "" || second == first {
		t.Errorf("after %s was killed, %q answered", first, second)
	}
	onLab(t, name, func(l *Lab) error { return l.Stop(t.Context(), second) })
	third := who()
	if third == "" || third == first || third == second {
		t.Errorf("after %s was stopped too, %q answered", second, third)
	}
	onLab(t, name, func(l *Lab) error {
		return errors.Join(l.Heal(t.Context()), l.Start(t.Context(), second), l.Partition([][]string{{third}, {first, second}}))
	})
	if got := who(); got == third || got == "" {
		t.Errorf("%q answered, which has no quorum", got)
	}
}

func TestLabsDoNotMeet(t *testing.T) {
	one, two := raiseLab(t, 2), raiseLab(t, 1)
	onLab(t, one, func(l *Lab) error { return l.Kill(t.Context(), "n1") })
	expect(t, "the other lab", states(look(t, two)), "running up")
	config, err := readConfig(os.Getenv("SKEIN_CONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the selected context", config.GetCurrent(), "lab-"+two)
	if err := Down(t.Context(), two, t.Output()); err != nil {
		t.Fatal(err)
	}
	if config, err = readConfig(os.Getenv("SKEIN_CONFIG")); err != nil {
		t.Fatal(err)
	}
	expect(t, "the selected context after one is gone", config.GetCurrent(), "lab-"+one)
	c := config.GetContexts()[0]
	expect(t, "its context", []string{c.GetServer(), c.GetToken(), c.GetCaPem()},
		[]string{fmt.Sprintf("https://127.0.0.1:%d", look(t, one).Port), "skeinp1-lab", "ca of lab " + one})
	expect(t, "the other lab's nodes", states(look(t, one)), "killed down; running up")
}

func TestExecRunsInsideANode(t *testing.T) {
	name := raiseLab(t, 1)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		out, err := exec.Command(exe, append([]string{"lab"}, args...)...).CombinedOutput()
		return string(out), err
	}
	got, err := run("exec", "n1", "--name", name, "--", "readlink", "/proc/self/ns/net")
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	agent, _ := look(t, name).agent(newNode(1))
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", agent.PID))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the command's namespace", strings.TrimSpace(got), want)
	if _, err := run("exec", "--name", name, "n1", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "7") {
		t.Errorf("exit 7 came back as %v", err)
	}
	if got, err := run("status", "--name", name); err != nil || !strings.HasPrefix(got, "NODE  STATE    PID") {
		t.Errorf("status: %v, %q", err, got)
	}
}
