package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
	"github.com/skein-dev/skein/runtime/network"
	"github.com/skein-dev/skein/runtime/runc/transfer"
)

// The tests run as the agent of a real keeper: the test binary starts one, with
// itself as the agent, and waits for its result. All that the tests make is
// below one folder, world, and in one cgroup.
const (
	envWorld = "SKEIN_TEST_WORLD"
	envRole  = "SKEIN_TEST_ROLE"
	copyVerb = "copy-files" // begins the arguments of the process that copies
)

// world is set in the agent of the keeper.
var world string

func TestMain(m *testing.M) {
	world = os.Getenv(envWorld)
	switch {
	case len(os.Args) == 3 && os.Args[1] == copyVerb:
		os.Exit(transfer.Main(os.Args[2:]))
	case os.Getenv(envRole) != "":
		playRole(os.Getenv(envRole))
	case world != "":
		os.Exit(m.Run())
	default:
		os.Exit(underKeeper())
	}
}

// underKeeper makes the world and runs the tests in it.
func underKeeper() (code int) {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := runcPath(); err != nil {
		return fail(err)
	}
	// Short, and on a disk that overlayfs takes as its upper layer.
	dir, err := os.MkdirTemp("/run", "skein-test-")
	if err != nil {
		return fail(err)
	}
	if err := network.MountPrivate(dir); err != nil {
		return fail(err)
	}
	defer func() {
		if err := errors.Join(syscall.Unmount(dir, syscall.MNT_DETACH), os.RemoveAll(dir)); err != nil {
			code = fail(err)
		}
	}()
	// Debian's /run lets nobody execute what is in it.
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND, ""); err != nil {
		return fail(err)
	}
	build := func(out, source string) error {
		cmd := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(dir, out), source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		return cmd.Run()
	}
	if err := errors.Join(build("skeeper", "../keeper/skeeper"), build("image/prog", "./testdata/prog")); err != nil {
		return fail(err)
	}
	if err := makeImage(filepath.Join(dir, "image")); err != nil {
		return fail(err)
	}
	// The keeper does not pass on its agent's exit code, and would start it again.
	keeperDir := filepath.Join(dir, "keeper")
	script := fmt.Sprintf("%s=%s %s \"$@\"; echo $? > %s/code; kill $PPID; read never", envWorld, dir, os.Args[0], dir)
	argv := append([]string{keeperDir, "--", "/bin/sh", "-c", script, "sh"}, os.Args[1:]...)
	cmd := exec.Command(filepath.Join(dir, "skeeper"), argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		return fail(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "code"))
	if err != nil {
		return fail(err)
	}
	code, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fail(err)
	}
	return code
}

// makeImage makes the root of all test containers, but for the program.
func makeImage(root string) error {
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nredis:x:999:998::/data:/bin/sh\n"), 0o644),
		os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nredis:x:998:\nlog:x:44:redis\n"), 0o644),
	)
}

// runcPath finds the runc to test with.
func runcPath() (string, error) {
	path := os.Getenv("SKEIN_RUNC")
	if path == "" {
		path = "../../bin/payload/runc"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("no runc at %s: run \"make payload\" first, or set SKEIN_RUNC", path)
	}
	return path, nil
}

var worlds atomic.Int64

// A scene is one driver with folders of its own, under the one keeper.
type scene struct {
	*Driver
	dir string
	t   testing.TB
}

func testConfig(t testing.TB, dir string) Config {
	t.Helper()
	path, err := runcPath()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		binds: []string{world},
		Path:  path, StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		KeeperDir: filepath.Join(world, "keeper"), CgroupParent: "/" + filepath.Base(world) + "/" + filepath.Base(dir),
		Volumes: []string{filepath.Join(dir, "volumes")}, SeccompDir: filepath.Join(dir, "seccomp"),
		Holder:      func() ([]byte, error) { return os.ReadFile(filepath.Join(world, "skeeper")) },
		UsersDir:    filepath.Join(usersWorld(), filepath.Base(dir)),
		CopyCommand: []string{"/proc/self/exe", copyVerb},
		Logger:      slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// usersWorld is beside the world, which nobody else can walk through.
func usersWorld() string { return world + "-users" }

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// newScene opens a driver that is cleaned up after, and looks for what it left.
func newScene(t testing.TB) *scene {
	t.Helper()
	dir := filepath.Join(world, fmt.Sprintf("w%d", worlds.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &scene{dir: dir, t: t}
	t.Cleanup(func() { cleanUp(t, dir) })
	s.open()
	return s
}

// open opens the driver, once more as an agent that comes after does.
func (s *scene) open() {
	s.t.Helper()
	d, err := New(testConfig(s.t, s.dir))
	if err != nil {
		s.t.Fatal(err)
	}
	s.Driver = d
}

// cleanUp removes all Pods, and fails for what is left of them.
func cleanUp(t testing.TB, dir string) {
	t.Helper()
	cfg := testConfig(t, dir)
	cfg.Logger = slog.New(slog.DiscardHandler)
	d, err := New(cfg)
	if err != nil {
		t.Errorf("clean up: %v", err)
		return
	}
	ctx := t.Context()
	if t.Context().Err() != nil {
		ctx = contextWithoutCancel(t)
	}
	pods, err := d.Sandboxes(ctx)
	for _, p := range pods {
		err = errors.Join(err, d.RemoveSandbox(ctx, p.Pod))
	}
	for _, left := range leftovers(d) {
		t.Errorf("left behind: %s", left)
	}
	if err := errors.Join(err, d.Purge(ctx)); err != nil {
		t.Errorf("clean up: %v", err)
	}
	_ = d.groups.remove(filepath.Dir(cfg.CgroupParent)) // the last one does it
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if strings.Contains(string(mounts), " "+dir+"/") {
		t.Error("something is still mounted")
	}
}

// leftovers lists what no Pod should leave: mounts, cgroups, folders, files of
// the keeper.
func leftovers(d *Driver) []string {
	var out []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[4]
		if strings.HasPrefix(at, d.cfg.RunDir) && strings.Count(strings.TrimPrefix(at, d.cfg.RunDir), "/") > 1 {
			out = append(out, "mount "+at)
		}
	}
	for _, root := range d.groups.roots {
		groups, _ := filepath.Glob(filepath.Join(root, d.cfg.CgroupParent, "*", "cgroup.procs"))
		for _, g := range groups {
			out = append(out, "cgroup "+g)
		}
	}
	for _, glob := range []string{d.cfg.StateDir + "/*", d.cfg.RunDir + "/*/*"} {
		found, _ := filepath.Glob(glob)
		out = append(out, found...)
	}
	return slices.DeleteFunc(out, func(path string) bool { return path == d.holderRoot() }) // of no Pod
}

// root makes a root file system for a container: the image below, a layer of
// its own above.
func (s *scene) root(id container.ID) []container.Mount {
	s.t.Helper()
	at := filepath.Join(s.dir, "layers", id.String())
	for _, name := range []string{"upper", "work"} {
		if err := os.MkdirAll(filepath.Join(at, name), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	return []container.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(world, "image"), "upperdir=" + at + "/upper", "workdir=" + at + "/work",
	}}}
}

func (s *scene) spec(id container.ID, words ...string) container.Spec {
	return container.Spec{
		ID: id, RootFS: s.root(id), Args: append([]string{"/prog"}, words...), Env: []string{"PATH=/"}, Cwd: "/",
		Labels: map[string]string{"a": "label"},
	}
}

func TestDriverPassesTheSuiteWithUsersOfItsOwn(t *testing.T) {
	if !hasUsers(t) {
		return
	}
	containertest.Suite(t, func(t *testing.T) containertest.Stage {
		s := newScene(t)
		s.serve()
		return containertest.Stage{Driver: s.Driver, RootFS: s.root, Program: "/prog", Users: true}
	})
}

func TestDriverPassesTheSuite(t *testing.T) {
	containertest.Suite(t, func(t *testing.T) containertest.Stage {
		s := newScene(t)
		s.serve()
		return containertest.Stage{Driver: s.Driver, RootFS: s.root, Program: "/prog"}
	})
}
