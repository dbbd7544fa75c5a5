package runc

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// contextWithoutCancel is for cleaning up, when a test's own context has ended.
func contextWithoutCancel(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }

func contextWithCancel(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// serve runs the driver until the test ends, or stop is called.
func (s *scene) serve() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

func (s *scene) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) prepare(pod string) {
	s.t.Helper()
	s.must(s.Prepare(s.t.Context(), container.Sandbox{Pod: pod, Name: pod, Hostname: "host-" + pod}))
}

// start starts a container in its sandbox.
func (s *scene) start(spec container.Spec) container.ID {
	s.t.Helper()
	s.prepare(spec.ID.Pod)
	s.must(s.Start(s.t.Context(), spec))
	return spec.ID
}

func (s *scene) status(id container.ID) container.Status {
	s.t.Helper()
	list, err := s.List(s.t.Context())
	s.must(err)
	i := slices.IndexFunc(list, func(x container.Status) bool { return x.ID == id })
	if i < 0 {
		s.t.Fatalf("%s is not listed", id)
	}
	return list[i]
}

// exited waits until a container has ended.
func (s *scene) exited(id container.ID) container.Status {
	s.t.Helper()
	for {
		changed := s.Changed()
		if got := s.status(id); got.State == container.Exited {
			return got
		}
		select {
		case <-changed:
		case <-s.t.Context().Done():
			s.t.Fatal("the container did not end")
		}
	}
}

// output follows a container's output to its end.
func (s *scene) output(id container.ID) []string {
	s.t.Helper()
	var out []string
	s.must(s.Logs(s.t.Context(), id, container.LogOptions{Tail: -1, Follow: true}, func(l container.LogLine) error {
		out = append(out, string(l.Text))
		return nil
	}))
	return out
}

// says runs a container to its end and gives what it wrote.
func (s *scene) says(spec container.Spec) string {
	s.t.Helper()
	return strings.Join(s.output(s.start(spec)), "\n")
}

// heard waits until a container has written a line that begins so.
func (s *scene) heard(id container.ID, text string) string {
	s.t.Helper()
	found := ""
	err := s.Logs(s.t.Context(), id, container.LogOptions{Tail: -1, Follow: true}, func(l container.LogLine) error {
		if strings.HasPrefix(string(l.Text), text) {
			found = string(l.Text)
			return context.Canceled
		}
		return nil
	})
	if found == "" {
		s.t.Fatalf("%s did not say %q: %v", id, text, err)
	}
	return found
}

// awaitAlone waits until nothing but its first process is in a container. What
// was killed takes a moment to die.
func (s *scene) awaitAlone(id container.ID) {
	s.t.Helper()
	for _, pid := range s.groups.processes(s.cgroup(id)) {
		p, err := keeper.Find(pid)
		if err != nil || pid == s.status(id).PID {
			continue
		}
		f, err := openPidfd(p)
		if errors.Is(err, keeper.ErrNoProcess) {
			continue
		}
		s.must(err)
		s.must(awaitPidfd(s.t.Context(), f))
		s.must(f.Close())
	}
}
