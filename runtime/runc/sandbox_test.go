package runc

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/skein-dev/skein/runtime/container"
)

func TestHowNamesAreLookedUp(t *testing.T) {
	s := newScene(t)
	s.serve()
	for pod, text := range map[string]string{"own": "nameserver 192.0.2.1\n", "images": ""} {
		s.must(s.Prepare(t.Context(), container.Sandbox{Pod: pod, Hostname: pod, Resolv: text}))
		spec := s.spec(container.ID{Pod: pod, Name: "c"}, "read", "/etc/resolv.conf")
		s.must(s.Start(t.Context(), spec))
		want := "nameserver 192.0.2.1"
		if text == "" {
			want = "open /etc/resolv.conf: no such file or directory"
		}
		s.exited(spec.ID)
		if got := strings.Join(s.output(spec.ID), "\n"); got != want {
			t.Errorf("%s: %q, want %q", pod, got, want)
		}
	}
}

func TestHostNetwork(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "pod", Hostname: "own", HostNetwork: true}))
	id := container.ID{Pod: "pod", Name: "c"}
	s.must(s.Start(t.Context(), s.spec(id, "hostname", ";", "sleep")))
	s.heard(id, "sleeping")
	pid := s.status(id).PID
	for kind, own := range map[string]bool{"net": false, "ipc": true, "uts": true, "pid": true, "mnt": true} {
		theirs, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		ours, err2 := os.Readlink("/proc/self/ns/" + kind)
		if err := errors.Join(err1, err2); err != nil || (theirs != ours) != own {
			t.Errorf("%s: %s inside, %s outside, %v", kind, theirs, ours, err)
		}
	}
	if got := s.heard(id, "own"); got != "own" {
		t.Errorf("called %q", got)
	}
	if _, err := s.Dial(t.Context(), "pod", "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
}

func TestContainersOfAPodShare(t *testing.T) {
	s := newScene(t)
	s.serve()
	server := s.start(s.one("serve", "127.0.0.1:7001", ";", "write", "/dev/shm/note", ";", "sleep"))
	s.heard(server, "sleeping")
	if got := s.says(s.one("dial", "127.0.0.1:7001", ";", "read", "/dev/shm/note")); got != "hello\nwritten" {
		t.Errorf("the other one of the Pod got %q", got)
	}
	other := s.spec(container.ID{Pod: "other", Name: "c"}, "read", "/dev/shm/note", ";", "dial", "127.0.0.1:7001")
	id := s.start(other)
	if got := s.exited(id); got.ExitCode != 65 {
		t.Errorf("another Pod: %+v, %v", got, s.output(id))
	}
}
