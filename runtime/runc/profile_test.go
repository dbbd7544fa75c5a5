package runc

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// noMknod is a profile that allows all but to make devices.
const noMknod = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mknod", "mknodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}`

// A container runs under the profile that it names, programs that are run inside
// it too, and does not start while its machine has no such profile.
func TestAProfileOfTheMachineConfines(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("status", "Seccomp", ";", "mknod", "/x", "1", "3", ";", "mumble", "ready", ";", "sleep")
	spec.Security.SeccompProfile = "team/no-mknod.json"
	s.prepare("pod")
	if err := s.Start(t.Context(), spec); !errors.Is(err, container.ErrNoProfile) || !strings.Contains(err.Error(), "not in "+s.cfg.SeccompDir) {
		t.Fatalf("without the folder: %v", err)
	}
	s.must(os.MkdirAll(filepath.Join(s.cfg.SeccompDir, "team"), 0o755))
	if err := s.Start(t.Context(), spec); !errors.Is(err, container.ErrNoProfile) {
		t.Fatalf("without the file: %v", err)
	}
	s.must(os.WriteFile(filepath.Join(s.cfg.SeccompDir, spec.Security.SeccompProfile), []byte(noMknod), 0o644))
	s.must(s.Start(t.Context(), spec))
	s.heard(spec.ID, "mknod /x operation not supported")
	s.heard(spec.ID, "Seccomp 2")
	var out strings.Builder
	_, err := s.Exec(t.Context(), spec.ID, container.ExecSpec{Args: []string{"/prog", "mknod", "/y", "1", "3"}, Stdout: &out, Stderr: &out})
	if err != nil || strings.TrimSpace(out.String()) != "mknod /y operation not supported" {
		t.Errorf("a program inside: %q, %v", out.String(), err)
	}
}

func TestProfilesThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"in/good.json": noMknod,
		"unknown.json": `{"defaultAction": "SCMP_ACT_ERRNO", "sycalls": []}`,
		"twice.json":   noMknod + noMknod,
		"empty.json":   `{}`,
		"null.json":    `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [null]}`,
		"none.json":    `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"action": "SCMP_ACT_KILL"}]}`,
		"action.json":  `{"defaultAction": "SCMP_ACT_SHRUG"}`,
		"notify.json":  `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}]}`,
		"listen.json":  `{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}`,
		"large.json":   `{"defaultAction": "SCMP_ACT_ALLOW"` + strings.Repeat(" ", maxProfile) + "}",
		"../out.json":  noMknod,
	} {
		path := filepath.Join(dir, "profiles", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(dir, "profiles")
	if err := errors.Join(os.Symlink("../out.json", filepath.Join(dir, "link.json")), os.Symlink("in/good.json", filepath.Join(dir, "inside.json")),
		unix.Mkfifo(filepath.Join(dir, "fifo.json"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"in/good.json": "", "inside.json": "", "unknown.json": "unknown field", "twice.json": "after its end", "empty.json": "defaultAction",
		"null.json": "names none", "none.json": "names none", "action.json": "SCMP_ACT_SHRUG", "notify.json": "SCMP_ACT_NOTIFY", "listen.json": "listener",
		"large.json": "larger than", "../out.json": "not a path below", "link.json": "cross-device", "fifo.json": "not a regular file", "in": "not a regular file",
		"/etc/passwd": "not a path below", ".": "not a path below", "missing.json": "not in " + dir,
	} {
		s, err := localProfile(dir, name, defaultCapabilities)
		switch {
		case want == "" && (err != nil || s.DefaultAction != specs.ActAllow || len(s.Syscalls) != 1):
			t.Errorf("%s: %+v, %v", name, s, err)
		case want != "" && (!errors.Is(err, container.ErrNoProfile) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	if _, err := localProfile("", "x.json", nil); !errors.Is(err, container.ErrNoProfile) {
		t.Errorf("without a folder: %v", err)
	}
}

// Docker's own profile, as a file, is what a container has without one.
func TestDockersProfileIsRead(t *testing.T) {
	text, err := json.Marshal(seccomp.DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	for _, caps := range [][]string{defaultCapabilities, append(slices.Clone(defaultCapabilities), "CAP_SYS_ADMIN")} {
		s, err := parseProfile(text, caps)
		if err != nil {
			t.Fatal(err)
		}
		mount := slices.ContainsFunc(s.Syscalls, func(c specs.LinuxSyscall) bool { return slices.Contains(c.Names, "mount") })
		if mount != slices.Contains(caps, "CAP_SYS_ADMIN") {
			t.Errorf("with %v: mount %v", caps, mount)
		}
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(noMknod))
	f.Add([]byte(`{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}], "syscalls": [{"name": "x", "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}}]}`))
	f.Add([]byte(`{"syscalls": [null]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s, err := parseProfile(text, defaultCapabilities); err == nil && (s == nil || s.ListenerPath != "" || !slices.Contains(seccompActions, s.DefaultAction)) {
			t.Errorf("took %q as %+v", text, s)
		}
	})
}
