package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/network"
	"github.com/skein-dev/skein/runtime/volume"
)

func TestUserRangesAreEachPodsOwn(t *testing.T) {
	r := newUserRanges()
	have := map[uint32]string{}
	for i := range (lastUsers-firstUsers)/network.UserCount + 1 {
		pod := fmt.Sprint(i)
		base, err := r.take(pod)
		if err != nil || have[base] != "" || base < firstUsers || base > lastUsers {
			t.Fatalf("%s: %#x, of %q before, %v", pod, base, have[base], err)
		}
		have[base] = pod
	}
	if _, err := r.take("one more"); err == nil {
		t.Error("there are users for one more")
	}
	again, err := r.take("7")
	if err != nil || have[again] != "7" {
		t.Errorf("asked again: %#x, %v", again, err)
	}
	r.give("7")
	if base, err := r.take("one more"); err != nil || base != again {
		t.Errorf("%#x, %v; want those that were given back, %#x", base, err, again)
	}
	r.give("9")
	for what, tt := range map[string]struct {
		pod  string
		base uint32
		ok   bool
	}{
		"its own":            {"8", firstUsers + 8*network.UserCount, true},
		"those of another":   {"new", firstUsers + 8*network.UserCount, false},
		"those of a machine": {"new", 0, false},
		"not from the start": {"new", firstUsers + 9*network.UserCount + 1, false},
	} {
		if err := r.keep(tt.pod, tt.base); (err == nil) != tt.ok {
			t.Errorf("keep %s: %v", what, err)
		}
	}
	if err := r.keep("new", firstUsers+9*network.UserCount); err != nil {
		t.Errorf("keep free ones: %v", err)
	}
}

// Those given back are not the next to be taken.
func TestUsersRest(t *testing.T) {
	r := newUserRanges()
	first, _ := r.take("a")
	r.give("a")
	if next, err := r.take("b"); err != nil || next == first {
		t.Errorf("%#x right after, %v", next, err)
	}
}

func owner(t *testing.T, path string) uint32 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

// hasUsers tells whether this kernel is one that maps all that a Pod sees, from Linux
// 6.3 on. The driver must say the same, and give no such Pod a sandbox on another.
func hasUsers(t testing.TB) bool {
	t.Helper()
	s := newScene(t)
	var uts unix.Utsname
	var major, minor int
	s.must(unix.Uname(&uts))
	if _, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	want := major > 6 || major == 6 && minor >= 3
	why := s.Features().Users
	err := s.Prepare(t.Context(), container.Sandbox{Pod: "pod", Users: true})
	if (why == nil) != want || (err == nil) != want {
		t.Fatalf("Linux %d.%d: %v, %v", major, minor, why, err)
	}
	return want
}

// usersScene has a Pod with users of its own.
func usersScene(t testing.TB) *scene {
	s := newScene(t)
	s.serve()
	s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "pod", Hostname: "own", Users: true}))
	return s
}

func (s *scene) volume(name string) container.Mount {
	s.t.Helper()
	at := filepath.Join(s.dir, "volumes", "pod", name)
	s.must(os.MkdirAll(at, 0o700))
	s.must(os.Chmod(at, 0o777))
	return container.Mount{Type: "bind", Source: at, Target: "/" + name, Options: []string{"rbind", "rprivate", "rw", "nodev"}}
}

// What root and others inside make is theirs by the numbers on the disk, and their
// processes are nobody's on the machine.
func TestRootInsideIsNobodyOutside(t *testing.T) {
	if !hasUsers(t) {
		return
	}
	s := usersScene(t)
	base := s.usersOf("pod")
	for i, tt := range []struct {
		user string
		want uint32
	}{{"", 0}, {"redis", 999}, {"4000:4000", 4000}} {
		id := container.ID{Pod: "pod", Name: "c", Attempt: i}
		data := s.volume("data" + fmt.Sprint(i))
		spec := s.spec(id, "write", data.Target+"/f", ";", "status", "Uid", ";", "read", "/proc/self/uid_map", ";", "sleep")
		spec.User, spec.Mounts = tt.user, []container.Mount{data}
		s.must(s.Start(t.Context(), spec))
		s.heard(id, "sleeping")
		if got := owner(t, data.Source+"/f"); got != tt.want {
			t.Errorf("%q: its file in a volume belongs to %d", tt.user, got)
		}
		if got := owner(t, fmt.Sprintf("/proc/%d", s.status(id).PID)); got != base+tt.want {
			t.Errorf("%q: its process belongs to %d, want %d", tt.user, got, base+tt.want)
		}
		said := strings.Join(strings.Fields(s.heard(id, "0 ")), " ")
		if want := fmt.Sprintf("0 %d %d", base, network.UserCount); said != want {
			t.Errorf("inside it says %q, want %q", said, want)
		}
	}
	id := container.ID{Pod: "pod", Name: "root"}
	spec := s.spec(id, "write", "/etc/made", ";", "write", "/etc/passwd")
	s.must(s.Start(t.Context(), spec))
	s.exited(id)
	for _, name := range []string{"etc/made", "etc/passwd"} { // a new one, and one from below
		if got := owner(t, filepath.Join(s.upper(id), name)); got != 0 {
			t.Errorf("%s of the root belongs to %d on the disk", name, got)
		}
	}
	if base < firstUsers {
		t.Errorf("the users begin at %d", base)
	}
}

// All powers inside are none outside.
func TestPowersEndAtTheNamespaceOfUsers(t *testing.T) {
	if !hasUsers(t) {
		return
	}
	s := usersScene(t)
	dir := filepath.Join(s.dir, "volumes", "pod", volume.HostDir)
	s.must(os.MkdirAll(dir, 0o700))
	secret := filepath.Join(dir, "secret")
	s.must(os.WriteFile(secret, []byte("the machine's"), 0o600))
	spec := s.one("read", "/secret", ";", "write", "/secret", ";", "write", "/proc/sys/kernel/printk_ratelimit", ";", "mknod", "/zero", "1", "5", ";", "status", "CapEff")
	spec.Security.Privileged, spec.Security.Allowed = true, container.Allowed{Privileged: true, HostPaths: true}
	spec.Mounts = []container.Mount{{Type: "bind", Source: secret, Target: "/secret", Options: []string{"bind"}, Device: true}} // which is not mapped
	s.must(s.Start(t.Context(), spec))
	s.exited(spec.ID)
	said := strings.Join(s.output(spec.ID), "\n")
	for i, want := range []string{"open /secret: permission denied", "open /secret: permission denied", "printk_ratelimit: permission denied", "operation not permitted"} {
		if lines := strings.Split(said, "\n"); len(lines) < 5 || !strings.Contains(lines[i], want) {
			t.Fatalf("%s\nwant %q in line %d", said, want, i)
		}
	}
	if text, err := os.ReadFile(secret); err != nil || string(text) != "the machine's" {
		t.Errorf("%q, %v", text, err)
	}
	if caps := said[strings.LastIndexByte(said, ' ')+1:]; strings.Trim(caps, "0") == "" {
		t.Errorf("it had no powers to begin with: %q", said)
	}
}

// Two Pods share no user, a driver that comes later knows whose are whose, and what
// was made for them goes with them.
func TestUsersOutliveTheDriver(t *testing.T) {
	if !hasUsers(t) {
		return
	}
	s := newScene(t)
	stop := s.serve()
	s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "pod", Users: true}))
	s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "other", Users: true}))
	one, two := s.usersOf("pod"), s.usersOf("other")
	if one == two || one == 0 || two == 0 {
		t.Fatalf("%d and %d", one, two)
	}
	running := s.spec(container.ID{Pod: "other", Name: "c"}, "sleep")
	s.must(s.Start(t.Context(), running))
	stop()
	s.open()
	s.serve()
	if s.usersOf("pod") != one || s.usersOf("other") != two {
		t.Errorf("%d and %d, before %d and %d", s.usersOf("pod"), s.usersOf("other"), one, two)
	}
	s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "third", Users: true}))
	if third := s.usersOf("third"); third == one || third == two {
		t.Errorf("the third Pod has %d", third)
	}
	if code, err := s.Exec(t.Context(), running.ID, container.ExecSpec{Args: []string{"/prog", "exit", "7"}}); err != nil || code != 7 {
		t.Errorf("exec: %d, %v", code, err)
	}
	s.must(s.RemoveSandbox(t.Context(), "other"))
	if _, err := os.Stat(s.usersDir("other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if s.usersOf("other") != 0 {
		t.Error("its users were not given back")
	}
}

func TestAMachineWithoutUsersSaysSo(t *testing.T) {
	s := newScene(t)
	cfg := testConfig(t, s.dir)
	cfg.UsersDir = ""
	d, err := New(cfg)
	s.must(err)
	if d.Features().Users == nil {
		t.Error("it says that it has them")
	}
	err = d.Prepare(t.Context(), container.Sandbox{Pod: "pod", Users: true})
	if err == nil || !strings.Contains(err.Error(), "has no users for Pods") {
		t.Errorf("prepare: %v", err)
	}
}

// BenchmarkStartWithUsers is BenchmarkStart for a Pod with users of its own, sandbox
// included, beside one without.
func BenchmarkStartWithUsers(b *testing.B) {
	for name, users := range map[string]bool{"own": true, "machines": false} {
		b.Run(name, func(b *testing.B) {
			s := newScene(b)
			s.serve()
			n := 0
			for b.Loop() {
				n++
				pod := fmt.Sprint("pod", n)
				s.must(s.Prepare(b.Context(), container.Sandbox{Pod: pod, Hostname: "own", Users: users}))
				id := container.ID{Pod: pod, Name: "c"}
				s.must(s.Start(b.Context(), s.spec(id, "exit", "0")))
				b.StopTimer()
				s.exited(id)
				s.must(s.RemoveSandbox(b.Context(), pod))
				b.StartTimer()
			}
		})
	}
}

// What an agent left that was killed while it tried, or by a loss of power, is in
// nobody's way.
func TestWhatIsLeftOfUsersIsInNobodysWay(t *testing.T) {
	if !hasUsers(t) {
		return
	}
	s := newScene(t)
	stop := s.serve()
	for _, pod := range []string{"whole", "empty", "foreign"} {
		s.must(s.Prepare(t.Context(), container.Sandbox{Pod: pod, Users: true}))
	}
	whole := s.usersOf("whole")
	s.must(os.WriteFile(filepath.Join(s.podDir("empty"), usersFile), nil, 0o600))
	s.must(os.WriteFile(filepath.Join(s.podDir("foreign"), usersFile), []byte("0"), 0o600))
	probe := filepath.Join(s.cfg.StateDir, ".probe", "root")
	s.must(os.MkdirAll(probe, 0o700))
	s.must(unix.Mount("left", probe, "tmpfs", 0, "size=4k"))
	gone := filepath.Join(s.cfg.UsersDir, "gone", "c.0")
	s.must(os.MkdirAll(gone, 0o700))
	s.must(unix.Mount("left", gone, "tmpfs", 0, "size=4k"))
	stop()
	s.open()
	s.serve()
	if why := s.Features().Users; why != nil {
		t.Errorf("it says it has no users: %v", why)
	}
	if got := s.usersOf("whole"); got != whole {
		t.Errorf("the Pod that was whole has %d, before %d", got, whole)
	}
	for _, pod := range []string{"empty", "foreign"} {
		s.must(s.Prepare(t.Context(), container.Sandbox{Pod: pod, Users: true}))
		id := container.ID{Pod: pod, Name: "c"}
		s.must(s.Start(t.Context(), s.spec(id, "exit", "3")))
		if got := s.exited(id); got.ExitCode != 3 {
			t.Errorf("%s: %+v", pod, got)
		}
		if base := s.usersOf(pod); base == whole || base < firstUsers {
			t.Errorf("%s has users from %d on", pod, base)
		}
	}
	for _, path := range []string{filepath.Dir(probe), filepath.Dir(gone)} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left: %s, %v", path, err)
		}
	}
	// With the last such Pod the folder goes, too.
	for _, pod := range []string{"whole", "empty", "foreign"} {
		s.must(s.RemoveSandbox(t.Context(), pod))
	}
	if _, err := os.Stat(s.cfg.UsersDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}
