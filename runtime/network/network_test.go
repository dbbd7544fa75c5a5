package network

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Pins {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ns")
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		names, err := p.List()
		for _, name := range names {
			err = errors.Join(err, p.Remove(name))
		}
		if err := errors.Join(err, p.Close()); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return p
}

// inside runs f on a thread that has joined the namespaces.
func inside(t *testing.T, p *Pins, name string, kinds []Kind, f func() error) {
	t.Helper()
	err := onThrowawayThread(func() error {
		for _, kind := range kinds {
			file, err := os.Open(p.Path(name, kind))
			if err == nil {
				err = unix.Setns(int(file.Fd()), 0)
				_ = file.Close()
			}
			if err != nil {
				return err
			}
		}
		return f()
	})
	if err != nil {
		t.Error(err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestSetPinsNamespaces(t *testing.T) {
	p := open(t)
	spec := Spec{Name: "pod", Hostname: "web-1"}
	if err := p.Set(spec); err != nil {
		t.Fatal(err)
	}
	before := map[Kind]uint64{}
	for _, kind := range []Kind{Net, IPC, UTS} {
		before[kind] = inode(t, p.Path("pod", kind))
		if own := inode(t, "/proc/self/ns/"+string(kind)); own == before[kind] {
			t.Errorf("%s is the machine's own", kind)
		}
	}
	inside(t, p, "pod", []Kind{Net, UTS}, func() error {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return err
		}
		if got := unix.ByteSliceToString(name.Nodename[:]); got != "web-1" {
			t.Errorf("hostname %q, want web-1", got)
		}
		l, err := net.Interfaces()
		if err != nil || len(l) != 1 || l[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, %v; want lo, up", l, err)
		}
		return nil
	})
	if err := p.Set(spec); err != nil {
		t.Fatal(err)
	}
	for kind, want := range before {
		if got := inode(t, p.Path("pod", kind)); got != want {
			t.Errorf("%s was made anew", kind)
		}
	}
	own, err := os.Hostname()
	if err != nil || own == "web-1" {
		t.Errorf("the machine is called %q, %v", own, err)
	}
}

func TestSetMakesAnewWhatIsNotWhole(t *testing.T) {
	p := open(t)
	spec := Spec{Name: "pod", Hostname: "a"}
	if err := p.Set(spec); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(p.Path("pod", IPC), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(spec); err != nil {
		t.Fatal(err)
	}
	for _, kind := range spec.kinds() {
		if !p.pinned("pod", kind) {
			t.Errorf("%s is not pinned", kind)
		}
	}
}

func TestHostNetworkPinsNoNetwork(t *testing.T) {
	p := open(t)
	if err := p.Set(Spec{Name: "pod", Hostname: "a", Host: true}); err != nil {
		t.Fatal(err)
	}
	got := map[Kind]bool{}
	for _, kind := range []Kind{Net, IPC, UTS} {
		got[kind] = p.pinned("pod", kind)
	}
	if diff := cmp.Diff(map[Kind]bool{Net: false, IPC: true, UTS: true}, got); diff != "" {
		t.Errorf("pinned (-want +got):\n%s", diff)
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	p := open(t)
	if err := errors.Join(p.Set(Spec{Name: "a"}), p.Set(Spec{Name: "b"})); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Remove("a"), p.Remove("a"), p.Remove("never")); err != nil {
		t.Fatal(err)
	}
	if got, err := p.List(); err != nil || !cmp.Equal(got, []string{"b"}) {
		t.Errorf("left %v, %v; want b", got, err)
	}
	if err := p.Remove("b"); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, p.dir); got != 1 {
		t.Errorf("%d mounts below %s, want its own alone", got, p.dir)
	}
	// A second Open finds the first one's mount.
	if _, err := Open(p.dir); err != nil {
		t.Fatal(err)
	}
	if got := mounts(t, p.dir); got != 1 {
		t.Errorf("opened twice, %d mounts below %s", got, p.dir)
	}
}

// mounts counts the mounts at and below a path.
func mounts(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.Fields(line)[4], path) {
			n++
		}
	}
	return n
}

func TestNamesStayBelowTheFolder(t *testing.T) {
	p := open(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".x"} {
		if err := p.Set(Spec{Name: name}); err == nil {
			t.Errorf("%q was taken as a name", name)
		}
	}
}

func TestDialReachesThePodAlone(t *testing.T) {
	p := open(t)
	if err := p.Set(Spec{Name: "pod"}); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	inside(t, p, "pod", []Kind{Net}, func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "from the pod")
			_ = c.Close()
		}
	}()
	addr := l.Addr().String()
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Errorf("%s is reachable from the machine", addr)
	}
	own := inode(t, "/proc/self/ns/net")
	before := abroad(t, own) // threads of above that have not ended yet
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			c, err := p.Dial(t.Context(), "pod", "tcp", strings.Replace(addr, "127.0.0.1", "localhost", 1))
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if got, err := io.ReadAll(c); err != nil || string(got) != "from the pod" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
	wait.Wait()
	for task := range abroad(t, own) {
		if !before[task] {
			t.Errorf("thread %s stayed in another network", task)
		}
	}
}

// abroad lists this program's threads that are in another network.
func abroad(t *testing.T, own uint64) map[string]bool {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, task := range tasks {
		var st unix.Stat_t
		if err := unix.Stat("/proc/self/task/"+task.Name()+"/ns/net", &st); err == nil && st.Ino != own {
			out[task.Name()] = true
		}
	}
	return out
}

func TestDialRefuses(t *testing.T) {
	p := open(t)
	if err := p.Set(Spec{Name: "pod"}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Dial(t.Context(), "pod", "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v", err)
	}
	for network, address := range map[string]string{"unix": "/run/x", "tcp": "example.org:80", "udp": "no port"} {
		if c, err := p.Dial(t.Context(), "pod", network, address); err == nil {
			_ = c.Close()
			t.Errorf("dialled %s %s", network, address)
		}
	}
	if _, err := p.Dial(t.Context(), "gone", "tcp", "127.0.0.1:1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a Pod that is not here: %v", err)
	}
}

// Root inside is nobody outside, and the other namespaces are its own to rule.
func TestNamespacesOfUsers(t *testing.T) {
	const base = 0x70010000
	p := open(t)
	spec := Spec{Name: "pod", Hostname: "web-1", Users: base}
	for range 2 {
		if err := p.Set(spec); err != nil {
			t.Fatal(err)
		}
	}
	users, err := os.Open(p.Path("pod", User))
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	own := inode(t, p.Path("pod", User))
	for _, kind := range []Kind{Net, IPC, UTS} {
		f, err := os.Open(p.Path("pod", kind))
		if err != nil {
			t.Fatal(err)
		}
		owner, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(owner, &st); err != nil || st.Ino != own {
			t.Errorf("%s belongs to %d, the users are %d, %v", kind, st.Ino, own, err)
		}
		_ = unix.Close(owner)
	}
	inside(t, p, "pod", []Kind{Net, UTS}, func() error {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil || unix.ByteSliceToString(name.Nodename[:]) != "web-1" {
			t.Errorf("hostname %q, %v", name.Nodename, err)
		}
		if l, err := net.Interfaces(); err != nil || len(l) != 1 || l[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v, %v; want lo, up", l, err)
		}
		return nil
	})
	// A set without users is another one.
	if err := p.Set(Spec{Name: "pod"}); err != nil {
		t.Fatal(err)
	}
}
