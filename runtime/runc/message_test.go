package runc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skein-dev/skein/runtime/container"
)

// leaving is a container that may leave a message at a path.
func (s *scene) leaving(name, path string, words ...string) container.Spec {
	spec := s.spec(container.ID{Pod: "pod", Name: name}, words...)
	spec.MessagePath = path
	return spec
}

func TestALastMessageIsKept(t *testing.T) {
	s := newScene(t)
	s.serve()
	const usual, deep = "/dev/termination-log", "/var/lib/app/why"
	user, sealed := s.leaving("user", usual, "leave", usual, "as", "redis"), s.leaving("sealed", deep, "leave", deep, "all", "else", "is", "read-only")
	user.User = "redis"
	sealed.Security.ReadOnlyRoot = true
	tests := []struct {
		spec container.Spec
		want string
	}{
		{user, "as redis"},
		{sealed, "all else is read-only"},
		{s.leaving("long", usual, "grow", usual+" 32"), "the last word"},
		{s.leaving("endless", usual, "grow", usual+" 100000"), ""}, // zeros alone fit in
		{s.leaving("full", usual, "leave", usual, strings.Repeat("x", 9000)), strings.Repeat("x", container.MaxMessage)},
	}
	for _, tt := range tests {
		s.prepare("pod")
		s.must(s.Start(t.Context(), tt.spec))
		if got := s.exited(tt.spec.ID); got.Message != tt.want {
			t.Errorf("%s: message %q, want %q; it said %q", tt.spec.ID.Name, got.Message, tt.want, s.output(tt.spec.ID))
		}
	}
	s.open() // it is on disk
	for _, tt := range tests {
		if got := s.status(tt.spec.ID); got.Message != tt.want || got.Stale {
			t.Errorf("%s, another driver: %+v, want %q", tt.spec.ID.Name, got, tt.want)
		}
	}
}

// What an agent did not see the next one reads: the file outlives it.
func TestALastMessageOfAContainerThatEndsWithoutAnAgent(t *testing.T) {
	s := newScene(t)
	v := s.victim(t, "start", "leave /dev/termination-log later ; sleep ; exit 4", "")
	v.hear("started pod.c0.0")
	v.kill()
	s.open()
	s.serve()
	id := container.ID{Pod: "pod", Name: "c0"}
	s.heard(id, "sleeping")
	s.must(s.Stop(t.Context(), id, 1e9))
	if got := s.status(id); got.Message != "later" || got.ExitCode != 4 {
		t.Errorf("%+v, want exit code 4 and the message", got)
	}
}

func TestNoLinkIsFollowedToAMessage(t *testing.T) {
	s := newScene(t)
	id := container.ID{Pod: "pod", Name: "c"}
	s.must(os.MkdirAll(s.messageDir(id), 0o700))
	path := filepath.Join(s.messageDir(id), messageFile)
	for what, plant := range map[string]func() error{
		"a link":   func() error { return os.Symlink("/etc/hostname", path) },
		"a folder": func() error { return os.Mkdir(path, 0o700) },
		"nothing":  func() error { return nil },
	} {
		s.must(plant())
		if got := s.message(id); got != "" {
			t.Errorf("%s: read %q", what, got)
		}
		s.must(os.RemoveAll(path))
	}
	s.must(os.RemoveAll(s.bundle(id)))
}

// Another start of the machine, seen without one: the sandbox's folder is gone.
func TestContainersOfALostSandboxAreStale(t *testing.T) {
	s := newScene(t)
	stop := s.serve()
	id := s.start(s.spec(container.ID{Pod: "pod", Name: "before"}, "exit", "0"))
	s.exited(id)
	stop()
	s.must(os.Remove(filepath.Join(s.shared("pod"), birthFile)))
	s.open()
	s.serve()
	if got := s.status(id); !got.Stale || got.ExitCode != 0 {
		t.Errorf("%+v, want it stale, with its exit code", got)
	}
	now := s.start(s.spec(container.ID{Pod: "pod", Name: "after"}, "exit", "0"))
	if got := s.exited(now); got.Stale {
		t.Errorf("started since: %+v", got)
	}
	s.open()
	if old, young := s.status(id), s.status(now); !old.Stale || young.Stale {
		t.Errorf("another driver: %+v and %+v, want only the first stale", old, young)
	}
}
