package lab

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRefusals(t *testing.T) {
	name := raiseLab(t, 2)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	open := func(do func(*Lab) error) error {
		l, err := Open(t.Context(), name, t.Output())
		if err != nil {
			return err
		}
		defer func() { _ = l.Close() }()
		return do(l)
	}
	onLab(t, name, func(l *Lab) error { return l.Kill(t.Context(), "n2") })
	free := freePort(t)
	for what, tt := range map[string]struct {
		err        error
		want, hint string
		code       int
	}{
		"a node that is not there": {open(func(l *Lab) error { return l.Kill(t.Context(), "n9") }), `has no node "n9": it has n1, n2`, "lab status --name " + name, 2},
		"a lab that is not there":  {func() error { _, err := Look("nowhere"); return err }(), `there is no lab "nowhere"`, "skeind lab up --name nowhere", 1},
		"to lock one":              {func() error { _, err := Open(t.Context(), "nowhere", nil); return err }(), `there is no lab "nowhere"`, "skeind lab up --name nowhere", 1},
		"a path as a name":         {Up(t.Context(), Order{Name: "../x"}), `lab name "../x"`, "--name demo", 2},
		"no name":                  {Up(t.Context(), Order{}), `lab name ""`, "--name demo", 2},
		"too many nodes":           {Up(t.Context(), Order{Name: name, Nodes: 300}), "--nodes 300", "", 2},
		"a port that is taken":     {Up(t.Context(), Order{Name: "t-other", Port: port, Out: t.Output()}), "is not free", "--port", 1},
		"to move to such a port":   {Up(t.Context(), Order{Name: name, Port: port, Out: t.Output()}), "is not free", "--port", 1},
		"stop of a killed node":    {open(func(l *Lab) error { return l.Stop(t.Context(), "n2") }), "n2 was killed", "lab heal --name " + name, 1},
		"one side of a partition":  {open(func(l *Lab) error { return l.Partition([][]string{{"n1"}}) }), "two groups", "n1,n2 n3", 2},
		"both sides of one":        {open(func(l *Lab) error { return l.Partition([][]string{{"n1", "n2"}, {"n2"}}) }), "n2 cannot be on two sides", "", 2},
		"a stranger in one":        {open(func(l *Lab) error { return l.Partition([][]string{{"n1"}, {"x"}}) }), `no node "x"`, "lab status", 2},
		"a program that is not there": {
			look(t, name).Exec("n1", []string{"no-such-program"}, nil), `no program "no-such-program"`, "", 1,
		},
	} {
		var e *Error
		if !errors.As(tt.err, &e) || !strings.Contains(e.Error(), tt.want) || !strings.Contains(e.Hint(), tt.hint) || e.ExitCode() != tt.code {
			t.Errorf("%s: got %v, want %q, hint %q, code %d", what, tt.err, tt.want, tt.hint, tt.code)
		}
	}
	expect(t, "after all of that", states(look(t, name)), "running up; killed down")
	if _, err := os.Stat(filepath.Join(rootDir, "t-other")); err == nil {
		t.Error("a lab that could not be has a directory")
	}
	if err := Up(t.Context(), Order{Name: name, Port: free, Out: t.Output()}); err != nil || !listens(free) {
		t.Errorf("a lab could not move to another port: %v", err)
	}
}

// An agent that ends at once, with what it said.
func TestUpTellsWhyANodeDoesNotStart(t *testing.T) {
	name := raiseLab(t, 1)
	onLab(t, name, func(l *Lab) error {
		if err := l.Kill(t.Context(), "n1"); err != nil {
			return err
		}
		return os.Remove(filepath.Join(l.dataDir(l.Nodes[0]), "joined")) // the disk was swapped
	})
	err := Up(t.Context(), Order{Name: name, Out: t.Output()})
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Error(), "node n1 has ended at once: skeind: no cluster") || !strings.Contains(e.Hint(), "n1/agent.log") {
		t.Errorf("got %v", err)
	}
}

func TestUpEndsWithItsContext(t *testing.T) {
	name := raiseLab(t, 1)
	onLab(t, name, func(l *Lab) error { // an agent that never answers
		agent, _ := l.agent(l.Nodes[0])
		return unix.Kill(agent.PID, unix.SIGSTOP)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := Up(ctx, Order{Name: name, Out: t.Output()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's end", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}

// Whatever is left of a lab goes by its name: here, its files are lost.
func TestDownNeedsNoState(t *testing.T) {
	name := raiseLab(t, 2)
	l := look(t, name)
	if err := forgetFiles(t, l); err != nil {
		t.Fatal(err)
	}
	longer := "skein-" + name + "-n1-switch" // of a lab with a longer name
	if err := pinNamespace(longer); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), name, t.Output()); err != nil {
		t.Fatal(err)
	}
	if !isNamespace(netnsPath(longer)) {
		t.Error("down has removed another lab's namespace")
	}
	if err := unpinNamespace(longer); err != nil {
		t.Fatal(err)
	}
	if err := Down(t.Context(), name, t.Output()); err != nil {
		t.Errorf("a second down: %v", err)
	}
}

// forgetFiles breaks what the lab has written down. Its context is known from
// there alone.
func forgetFiles(t *testing.T, l *Lab) error {
	t.Helper()
	if err := l.forget(t.Context()); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.dir, stateFile), []byte("{"), 0o600)
}

func TestCommandsOnOneLabTakeTurns(t *testing.T) {
	name := raiseLab(t, 1)
	l, err := Open(t.Context(), name, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var e *Error
	if _, err := Open(ctx, name, t.Output()); !errors.As(err, &e) || !strings.Contains(e.Error(), "another command") {
		t.Errorf("a second command on a locked lab: %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		second, err := Open(t.Context(), name, t.Output())
		if err == nil {
			err = second.Close()
		}
		waiting <- err
	}()
	_ = l.Close()
	if err := <-waiting; err != nil {
		t.Errorf("a command that waited for its turn: %v", err)
	}
}

func TestRulesReadAsMeant(t *testing.T) {
	name := raiseLab(t, 3)
	list := func() string {
		var out []byte
		err := inside(look(t, name).switchName(), func() error {
			var err error
			out, err = exec.Command("nft", "list", "ruleset").CombinedOutput()
			return err
		})
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	expect(t, "rules of a new lab", list(), "")
	onLab(t, name, func(l *Lab) error {
		return errors.Join(l.Slow("n3", 0.055, 0), l.Partition([][]string{{"n1"}, {"n2", "n3"}}))
	})
	want := `table bridge skein_lab {
	chain forward {
		type filter hook forward priority 0; policy accept;
		iifname "n1" oifname "n2" drop
		iifname "n1" oifname "n3" drop
		iifname "n2" oifname "n1" drop
		iifname "n3" oifname "n1" drop
		iifname "n3" numgen random mod 10000 < 550 drop
		oifname "n3" numgen random mod 10000 < 550 drop
	}
}
`
	if diff := cmp.Diff(want, list()); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	onLab(t, name, func(l *Lab) error { return l.Heal(t.Context()) })
	expect(t, "rules of a healed lab", list(), "")
}

func TestProcessIsNotItsSuccessor(t *testing.T) {
	self, ok := findProcess(os.Getpid())
	if !ok || !self.alive() {
		t.Fatalf("this process is %+v, %v", self, ok)
	}
	earlier := process{PID: self.PID, Start: self.Start - 1}
	if earlier.alive() {
		t.Error("a process with our number and another start is alive")
	}
	if err := earlier.kill(); err != nil { // or this test has ended
		t.Error(err)
	}
}

func TestParsePercent(t *testing.T) {
	for text, want := range map[string]float64{"5%": 0.05, "0": 0, "100%": 1, "0.5%": 0.005, "-1%": -1, "101%": -1, "NaN": -1, "many": -1, "": -1} {
		got, err := parsePercent(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{`/a\040b`: "/a b", `/a\134`: `/a\`, `/a\9`: `/a\9`, `/a\`: `/a\`, "": ""} {
		if got := unescape(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}
