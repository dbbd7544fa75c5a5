package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// A fence freezes and kills the Pods whose lease has run out. All it knows is
// on disk, so that a keeper which is executed in place goes on where the last
// one was.
type fence struct {
	dir    keeper.Dir
	boot   string
	now    func() time.Duration
	frozen map[string]keeper.Lease // those that this keeper may have frozen
}

const (
	// sweepEvery is how often a Pod without a lease is looked at again: a start
	// that hung may still put a process there.
	sweepEvery = 50 * time.Millisecond
	// leasesEvery repairs what a lost notice would leave behind.
	leasesEvery = time.Second
)

func newFence(dir keeper.Dir, boot string) *fence {
	return &fence{dir: dir, boot: boot, now: keeper.SinceBoot, frozen: map[string]keeper.Lease{}}
}

// run enforces for ever. It wakes when a lease falls due and when one is
// written; a lease that is renewed in time costs a look at a small folder.
func (f *fence) run() {
	news := make(chan struct{}, 1)
	go watchLeases(f.dir, news)
	first := true
	for {
		timer := time.NewTimer(f.look(first))
		first = false
		select {
		case <-news:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// look enforces what is due and returns when to look again.
func (f *fence) look(thawAll bool) time.Duration {
	entries, err := os.ReadDir(f.dir.Leases())
	if err != nil {
		say("list the leases: " + err.Error())
		return leasesEvery
	}
	next := leasesEvery
	found := map[string]bool{}
	for _, e := range entries {
		pod := e.Name()
		if strings.HasPrefix(pod, ".") {
			continue
		}
		l, err := f.dir.ReadLease(pod)
		if err != nil || l.Boot != f.boot {
			continue
		}
		found[pod] = true
		next = min(next, f.enforce(pod, l, thawAll))
	}
	for pod, l := range f.frozen {
		if !found[pod] { // its Pod is being cleared away
			freeze(l.Groups, false)
			delete(f.frozen, pod)
		}
	}
	return next
}

// enforce does what one lease asks for now, and says when it asks for more. An
// earlier keeper may have frozen what is to run again.
func (f *fence) enforce(pod string, l keeper.Lease, thaw bool) time.Duration {
	_, frozen := f.frozen[pod]
	switch now := f.now(); {
	case now >= l.Kill:
		if !frozen || len(pidsIn(l.Groups)) > 0 {
			if !frozen {
				say("the lease of Pod " + pod + " has run out: killing it")
			}
			f.frozen[pod] = l
			killAll(l.Groups)
		}
		freeze(l.Groups, true) // whatever still comes must not run
		return sweepEvery
	case now >= l.Freeze:
		if !frozen {
			say("the lease of Pod " + pod + " was not renewed: freezing it")
			f.frozen[pod] = l
		}
		freeze(l.Groups, true)
		return min(l.Kill-now, sweepEvery)
	default:
		if frozen || thaw {
			freeze(l.Groups, false)
			delete(f.frozen, pod)
		}
		return l.Freeze - now
	}
}

// freeze stops or continues all processes of a Pod.
func freeze(groups []string, stop bool) {
	v2, v1, sig := "0", "THAWED", syscall.SIGCONT
	if stop {
		v2, v1, sig = "1", "FROZEN", syscall.SIGSTOP
	}
	if put(groups[0]+"/cgroup.freeze", v2) || put(groups[0]+"/freezer.state", v1) {
		return
	}
	for _, pid := range pidsIn(groups) {
		_ = syscall.Kill(pid, sig)
	}
}

// killAll kills the processes of a Pod and those that they make meanwhile. One
// that the freezer of cgroup v1 holds dies when it is let go, before it runs
// another instruction of its own.
func killAll(groups []string) {
	for range 50 {
		freeze(groups, true)
		pids := pidsIn(groups)
		if len(pids) == 0 {
			return
		}
		if !put(groups[0]+"/cgroup.kill", "1") {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			put(groups[0]+"/freezer.state", "THAWED")
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// put writes to a file of the kernel's, if there is one.
func put(path, text string) bool {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = syscall.Close(fd) }()
	_, err = syscall.Write(fd, []byte(text))
	return err == nil
}

// pidsIn lists the processes in groups and below them.
func pidsIn(groups []string) []int {
	var out []int
	for _, g := range groups {
		text, _ := os.ReadFile(g + "/cgroup.procs")
		for _, s := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(s); err == nil && pid > 1 {
				out = append(out, pid)
			}
		}
		entries, _ := os.ReadDir(g)
		for _, e := range entries {
			if e.IsDir() {
				out = append(out, pidsIn([]string{g + "/" + e.Name()})...)
			}
		}
	}
	return out
}

// watchLeases tells when a lease was written.
func watchLeases(dir keeper.Dir, news chan<- struct{}) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err == nil {
		_, err = syscall.InotifyAddWatch(fd, dir.Leases(), syscall.IN_MOVED_TO|syscall.IN_DELETE)
	}
	if err != nil {
		say("watch the leases: " + err.Error())
		return
	}
	buf := make([]byte, 4096)
	for {
		if _, err := syscall.Read(fd, buf); err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
		select {
		case news <- struct{}{}:
		default: // it is about to look
		}
	}
}
