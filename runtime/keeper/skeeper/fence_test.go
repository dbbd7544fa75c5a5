package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// A ward is a Pod of one process that counts, in a control group of its own.
type ward struct {
	t      *testing.T
	dir    keeper.Dir
	group  string
	counts string // file that grows while it runs
	now    time.Duration
}

// newGroup makes a group that can be frozen, by either version of cgroups.
func newGroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup/freezer"
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		root = "/sys/fs/cgroup"
	}
	group := filepath.Join(root, fmt.Sprintf("skein-fence-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 500 {
			if err := syscall.Rmdir(group); err == nil {
				return
			}
			time.Sleep(2 * time.Millisecond) // until what was killed has gone
		}
		t.Errorf("group %s cannot be removed", group)
	})
	return group
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{t: t, dir: keeper.Dir(t.TempDir()), group: newGroup(t), counts: filepath.Join(t.TempDir(), "counts")}
	if err := os.MkdirAll(w.dir.Leases(), 0o700); err != nil {
		t.Fatal(err)
	}
	w.begin()
	return w
}

// begin starts a process in the group.
func (w *ward) begin() {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SKEEPER_TEST_ROLE=ward", "SKEEPER_TEST_GROUP="+w.group, "SKEEPER_TEST_COUNTS="+w.counts)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		freeze([]string{w.group}, false) // what is frozen does not die
		<-ended
	})
}

// countOn is that process: it enters the group, and makes a file grow.
func countOn(group, counts string) {
	if err := os.WriteFile(group+"/cgroup.procs", fmt.Append(nil, os.Getpid()), 0o644); err != nil {
		panic(err)
	}
	f, err := os.OpenFile(counts, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	for {
		_, _ = f.WriteString("\n")
		time.Sleep(2 * time.Millisecond)
	}
}

// keeper is a keeper that has just begun, whose clock is the ward's.
func (w *ward) keeper() *fence {
	f := newFence(w.dir, "this-boot")
	f.now = func() time.Duration { return w.now }
	return f
}

func (w *ward) lease(freeze, kill time.Duration) {
	w.t.Helper()
	l := keeper.Lease{Boot: "this-boot", Freeze: freeze, Kill: kill, Groups: []string{w.group}}
	if err := w.dir.WriteLease("pod", l); err != nil {
		w.t.Fatal(err)
	}
}

// frozen tells what the kernel says.
func (w *ward) frozen() bool {
	v1, _ := os.ReadFile(w.group + "/freezer.state")
	v2, _ := os.ReadFile(w.group + "/cgroup.events")
	return strings.HasPrefix(string(v1), "FROZEN") || strings.Contains(string(v2), "frozen 1")
}

func (w *ward) count() int64 {
	info, err := os.Stat(w.counts)
	if err != nil {
		return 0
	}
	return info.Size()
}

// runs waits until it counts on.
func (w *ward) runs(when string) {
	w.t.Helper()
	for before, end := w.count(), time.Now().Add(10*time.Second); w.count() <= before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: it does not run", when)
		}
	}
}

// stands waits until the kernel says that all is frozen, or nothing is left, and
// looks for a while whether it counts on.
func (w *ward) stands(when string) (at int64) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !w.frozen() && len(pidsIn([]string{w.group})) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: it is not frozen", when)
		}
	}
	at = w.count()
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now := w.count(); now != at {
			w.t.Fatalf("%s: it counted on from %d to %d", when, at, now)
		}
	}
	return at
}

func TestALeaseThatRunsOutFreezesAndThenKills(t *testing.T) {
	w := newWard(t)
	f := w.keeper()
	w.lease(8*time.Second, 10*time.Second)
	w.now = 5 * time.Second
	if next := f.look(true); next > time.Second {
		t.Errorf("it looks again after %v, want a second at most", next)
	}
	w.runs("under a lease")

	w.now = 8 * time.Second
	f.look(false)
	w.stands("not renewed")
	w.lease(12*time.Second, 14*time.Second)
	f.look(false)
	w.runs("renewed while frozen")

	w.now = 12 * time.Second
	f.look(false)
	at := w.stands("not renewed again")
	w.now = 14 * time.Second
	f.look(false)
	if pids := pidsIn([]string{w.group}); len(pids) > 0 {
		t.Errorf("%v live on after the lease", pids)
	}
	if now := w.stands("killed"); now != at {
		t.Errorf("it counted from %d to %d between being frozen and dying", at, now)
	}

	w.begin() // a start that hung until now
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		f.look(false)
	}
	if now := w.count(); now != at {
		t.Errorf("what came after the lease counted from %d to %d", at, now)
	}
	w.lease(time.Hour, 2*time.Hour)
	f.look(false)
	w.begin()
	w.runs("a new lease")
}

func TestAKeeperThatBeginsFindsALeaseThatHasRunOut(t *testing.T) {
	for name, fate := range map[string]struct {
		frozen bool // by the keeper before
		now    time.Duration
		lives  bool
	}{
		"frozen, and over":              {frozen: true, now: 11 * time.Second},
		"running, and over":             {now: 11 * time.Second},
		"frozen, and not over":          {frozen: true, now: 9 * time.Second},
		"frozen, and renewed meanwhile": {frozen: true, now: 7 * time.Second, lives: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t)
			w.runs("to begin with")
			w.lease(8*time.Second, 10*time.Second)
			before := int64(-1)
			if fate.frozen {
				w.now = 8 * time.Second
				w.keeper().look(true)
				before = w.stands("frozen by the keeper before")
			}
			w.now = fate.now
			w.keeper().look(true)
			if fate.lives {
				w.runs("its lease lasts")
				return
			}
			if after := w.stands("its lease is over"); fate.frozen && after != before {
				t.Errorf("it counted from %d to %d while keepers changed", before, after)
			}
			if pids := pidsIn([]string{w.group}); fate.now >= 10*time.Second && len(pids) > 0 {
				t.Errorf("%v live on", pids)
			}
		})
	}
}

func TestALeaseOfAnotherBootMeansNothing(t *testing.T) {
	w := newWard(t)
	w.lease(time.Second, 2*time.Second)
	f := newFence(w.dir, "another-boot")
	f.now = func() time.Duration { return time.Hour }
	f.look(true)
	w.runs("the lease is of an earlier boot")
}
