package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests mount, so they need root and a mount namespace of their own.
func TestMain(m *testing.M) {
	if os.Getenv("SKEIN_VOLUME_TEST") == "" {
		os.Exit(again())
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// again runs this program in a mount namespace of its own.
func again() int {
	attr := &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Env: append(os.Environ(), "SKEIN_VOLUME_TEST=1"),
		Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS},
	}
	p, err := os.StartProcess("/proc/self/exe", os.Args, attr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		return 1
	}
	state, err := p.Wait()
	if err != nil {
		return 1
	}
	return state.ExitCode()
}

func open(t *testing.T) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(Config{StateDir: filepath.Join(dir, "disk"), RunDir: filepath.Join(dir, "run")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pods, err := s.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, p := range pods {
			if err := s.Remove(p); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if left := mountsBelow(t, dir); left != "" {
			t.Errorf("mounts are left:\n%s", left)
		}
		for _, d := range s.Dirs() {
			if list, err := os.ReadDir(d); err != nil || len(list) > 0 {
				t.Errorf("left in %s: %v, %v", d, list, err)
			}
		}
	})
	return s, dir
}

func mountsBelow(t *testing.T, dir string) string {
	t.Helper()
	body, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(body)) {
		if strings.Contains(line, " "+dir+"/") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestAnEmptyFolderLastsAsLongAsItsPod(t *testing.T) {
	s, _ := open(t)
	for _, memory := range []bool{false, true} {
		name := fmt.Sprintf("memory-%v", memory)
		dir := must(s.Empty("p1", name, Empty{Memory: memory, Size: 1 << 20}))(t)
		if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		info := must(os.Stat(dir))(t)
		if info.Mode().Perm() != 0o777 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
		next := must(Open(s.cfg))(t) // another agent
		again := must(next.Empty("p1", name, Empty{Memory: memory, Size: 1 << 20}))(t)
		if body, err := os.ReadFile(filepath.Join(again, "f")); err != nil || string(body) != "x" {
			t.Errorf("%s after a restart: %q, %v", name, body, err)
		}
		err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o600)
		if memory != errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s takes two MiB: %v", name, err)
		}
	}
	used, over, err := s.Used("p1", "memory-false", 100)
	if err != nil || over || used < 2<<20 || used > 3<<20 {
		t.Errorf("used %d, %v, %v", used, over, err)
	}
	if _, over, _ := s.Used("p1", "memory-false", 2); !over {
		t.Error("more entries than may be looked at are not told")
	}
	if err := s.Remove("p1"); err != nil {
		t.Fatal(err)
	}
	if pods := must(s.Pods())(t); len(pods) > 0 {
		t.Errorf("left of %v", pods)
	}
}

func TestFilesChangeAllAtOnce(t *testing.T) {
	s, _ := open(t)
	set := func(version string) []File {
		return []File{{Path: "a", Data: []byte(version), Mode: 0o644}, {Path: "deep/er/b", Data: []byte(version), Mode: 0o400}}
	}
	dir := must(s.Files("p1", "v", set("0"), Owner{}))(t)
	done := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			data, err := os.OpenRoot(filepath.Join(dir, dataLink))
			if err != nil {
				continue // between the reading of the link and its use the old version may go
			}
			a, err1 := data.ReadFile("a")
			b, err2 := data.ReadFile("deep/er/b")
			_ = data.Close()
			if err1 == nil && err2 == nil && string(a) != string(b) {
				t.Errorf("read %q and %q together", a, b)
			}
		}
	})
	for i := range 300 {
		must(s.Files("p1", "v", set(fmt.Sprint(i)), Owner{}))(t)
	}
	close(done)
	reader.Wait()
	must(s.Files("p1", "v", []File{{Path: "c", Data: []byte("c"), Mode: 0o600}}, Owner{Group: 1234}))(t)
	list := must(os.ReadDir(dir))(t)
	var names []string
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), "..") {
			names = append(names, e.Name())
		}
	}
	if fmt.Sprint(names) != "[c]" || len(list) != 3 {
		t.Errorf("there are %v", list)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "c"), &st); err != nil || st.Gid != 1234 || st.Mode&0o777 != 0o640 {
		t.Errorf("the file of a group: gid %d, mode %o, %v", st.Gid, st.Mode, err)
	}
	if !mountPoint(s.cfg.RunDir) {
		t.Error("files are not in memory")
	}
	for _, bad := range []string{"../x", "/x", "..data", ""} {
		if _, err := s.Files("p1", "w", []File{{Path: bad}}, Owner{}); err == nil {
			t.Errorf("a file at %q was made", bad)
		}
	}
}

func TestAGroupOwnsItsVolumeAndWhatIsMadeInIt(t *testing.T) {
	s, outside := open(t)
	secret := filepath.Join(outside, "outside")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := must(s.Empty("p1", "v", Empty{}))(t)
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub"), 0o700), os.WriteFile(filepath.Join(dir, "sub/f"), nil, 0o600),
		os.Symlink(secret, filepath.Join(dir, "link")), os.Symlink(outside, filepath.Join(dir, "folder")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Empty("p1", "v", Empty{Owner: Owner{Group: 4321}}))(t)
	for path, want := range map[string]uint32{"": 0o2777, "sub": 0o2770, "sub/f": 0o660} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, path), &st); err != nil || st.Gid != 4321 || st.Mode&0o7777 != want {
			t.Errorf("%q: gid %d, mode %o, %v; want %o", path, st.Gid, st.Mode&0o7777, err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(secret, &st); err != nil || st.Gid == 4321 || st.Mode&0o777 != 0o600 {
		t.Errorf("a file outside was changed: gid %d, mode %o", st.Gid, st.Mode)
	}
	if err := os.Chown(filepath.Join(dir, "sub/f"), -1, 0); err != nil {
		t.Fatal(err)
	}
	must(s.Empty("p1", "v", Empty{Owner: Owner{Group: 4321, OnMismatch: true}}))(t)
	if err := unix.Stat(filepath.Join(dir, "sub/f"), &st); err != nil || st.Gid != 0 {
		t.Errorf("OnMismatch looked below a top that is right: gid %d, %v", st.Gid, err)
	}
}

func TestASubPathStaysInItsVolume(t *testing.T) {
	s, outside := open(t)
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("host"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := must(s.Empty("p1", "v", Empty{}))(t)
	for link, to := range map[string]string{
		"out": outside, "up": "../../..", "root": "/", "proc": "/proc/self/root", "in": "real", "file": outside + "/secret",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for i, sub := range []string{"out", "up", "root", "proc", "file", "out/secret", "up/x", "proc/etc", "../x", "/etc", "a/../../x", ""} {
		if at, err := s.Sub("p1", "c.0", i, dir, sub); err == nil {
			t.Errorf("%q was mounted at %s", sub, at)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i, sub := range []string{"real", "in", "new/deep/er", "in/more", "."} {
		at, err := s.Sub("p1", "c.0", 100+i, dir, sub)
		if err != nil {
			t.Errorf("%q: %v", sub, err)
			continue
		}
		var have, want unix.Stat_t
		if err := errors.Join(unix.Stat(at, &have), unix.Stat(filepath.Join(dir, sub), &want)); err != nil || have.Ino != want.Ino {
			t.Errorf("%q: another folder was mounted, %v", sub, err)
		}
		if sub == "new/deep/er" && have.Mode&0o777 != 0o777 {
			t.Errorf("a folder that was missing has mode %o, not that of the volume", have.Mode&0o777)
		}
	}
	if err := s.Release("p1", "c.0"); err != nil {
		t.Fatal(err)
	}
	if left := mountsBelow(t, filepath.Join(s.cfg.RunDir, "p1")); left != "" {
		t.Errorf("mounts are left:\n%s", left)
	}
	if info, err := os.Stat(filepath.Join(dir, "new/deep/er")); err != nil || !info.IsDir() {
		t.Errorf("what was mounted is gone: %v", err)
	}
}

// TestALinkThatIsSwappedWhileItIsMountedLeadsNowhere plays a container that swaps
// a folder for a link out of its volume, as often as it can, while it is mounted.
func TestALinkThatIsSwappedWhileItIsMountedLeadsNowhere(t *testing.T) {
	s, outside := open(t)
	prey := filepath.Join(outside, "prey")
	if err := errors.Join(os.Mkdir(prey, 0o755), os.WriteFile(filepath.Join(prey, "secret"), []byte("host"), 0o600)); err != nil {
		t.Fatal(err)
	}
	dir := must(s.Empty("p1", "v", Empty{}))(t)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o777), os.Symlink(prey, filepath.Join(dir, "link")), os.MkdirAll(filepath.Join(dir, "link2/b"), 0o777)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	swaps := 0
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for a, link := filepath.Join(dir, "a"), filepath.Join(dir, "link"); ; swaps++ {
			select {
			case <-done:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	mounted, refused := 0, 0
	for i := range 5000 {
		for _, sub := range []string{"a/b", "a", "a/new"} {
			at, err := s.Sub("p1", "c.0", 0, dir, sub)
			if err != nil {
				refused++
				continue
			}
			mounted++
			if _, err := os.Stat(filepath.Join(at, "secret")); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("turn %d: %q led to the machine's own folder: %v", i, sub, err)
			}
		}
	}
	close(done)
	swapper.Wait()
	if list := must(os.ReadDir(prey))(t); len(list) != 1 {
		t.Errorf("something was made outside: %v", list)
	}
	t.Logf("%d swaps; %d mounts in the volume, %d refusals", swaps, mounted, refused)
	if mounted < 100 || refused < 100 || swaps < 1000 {
		t.Errorf("the race was not run: %d mounts, %d refusals, %d swaps", mounted, refused, swaps)
	}
}

func TestAFolderOfTheMachineIsMountedAndNeverRemoved(t *testing.T) {
	s, outside := open(t)
	shared := filepath.Join(outside, "host")
	below := filepath.Join(shared, "below")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{ // as a machine's own mounts are: shared with whoever binds them
		unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, ""), unix.Mount("b", below, "tmpfs", 0, ""),
		os.WriteFile(filepath.Join(below, "kept"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(unmount(below), unmount(shared)); err != nil {
			t.Error(err)
		}
	})
	at := must(s.Host("p1", "c.0", 0, shared, HostDirectory, ""))(t)
	if _, err := os.Stat(filepath.Join(at, "below/kept")); err != nil {
		t.Error(err)
	}
	for kind, ok := range map[HostType]bool{HostAny: true, HostDirectoryOrCreate: true, HostFile: false, HostSocket: false, HostCharDevice: false, HostBlockDevice: false} {
		if _, err := s.Host("p1", "c.1", 0, shared, kind, ""); (err == nil) != ok {
			t.Errorf("%q of a folder: %v", kind, err)
		}
	}
	made := filepath.Join(outside, "made/deep")
	must(s.Host("p1", "c.2", 0, made, HostDirectoryOrCreate, ""))(t)
	must(s.Host("p1", "c.2", 1, made+"/f", HostFileOrCreate, ""))(t)
	if _, err := s.Host("p1", "c.2", 2, filepath.Join(outside, "none"), HostAny, ""); err == nil {
		t.Error("what is not there was mounted")
	}
	if err := s.Remove("p1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(below, "kept")); err != nil {
		t.Errorf("the machine's own mount went with the Pod: %v", err)
	}
}

func TestWhatIsKeptIsForRootAlone(t *testing.T) {
	s, _ := open(t)
	long := strings.Repeat("x", 300)
	for _, name := range []string{"a/b", long} {
		if err := errors.Join(s.Keep(name, []byte("1")), s.Keep(name, []byte("2"))); err != nil {
			t.Fatal(err)
		}
	}
	if kept := must(s.Kept())(t); len(kept) != 2 || string(kept[0]) != "2" {
		t.Errorf("kept: %q", kept)
	}
	err := filepath.WalkDir(filepath.Join(s.cfg.RunDir, keptDir), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return err
	})
	if err := errors.Join(err, s.Keep("a/b", nil), s.Keep(long, nil), s.Keep("none", nil)); err != nil {
		t.Fatal(err)
	}
	if kept := must(s.Kept())(t); len(kept) != 0 {
		t.Errorf("kept: %q", kept)
	}
}
