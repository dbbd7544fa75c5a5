package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

const (
	// wedgedAfter is how long an agent that has told that it is well may then
	// be silent, before it is ended and started again. Its containers run on.
	wedgedAfter = 20 * time.Second
	// stopWithin is how long an agent may take to stop.
	stopWithin = 15 * time.Second
	// lookEvery is how often all that is looked at.
	lookEvery = 5 * time.Second
)

// beatFD hands the agent's heartbeat to the keeper that is executed in place.
// reloaded tells it that the agent is to be of the new build too.
const (
	beatFD   = "SKEEPER_BEAT"
	reloaded = "SKEEPER_RELOADED"
)

// health is what the supervisor knows of how its agent is. The agent tells by
// an eventfd: no disk, which may hang, lies in between.
type health struct {
	fd     int           // the eventfd, to read and for the agent to write
	beats  chan struct{} // one for every read of it
	last   time.Time     // of the last beat of this agent; zero: none yet
	looked time.Time
	asked  time.Time // when the agent was told to end; zero: it was not
}

// newHealth takes the heartbeat that an earlier keeper of this process left, or
// makes one.
func newHealth() (*health, error) {
	h := &health{beats: make(chan struct{})}
	fd, err := strconv.Atoi(os.Getenv(beatFD))
	_ = os.Unsetenv(beatFD)
	if err != nil || fd <= 2 {
		made, _, e := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0)
		if e != 0 {
			return nil, os.NewSyscallError("eventfd", e)
		}
		fd = int(made)
	}
	syscall.CloseOnExec(fd)
	h.fd = fd
	return h, nil
}

// listen passes on the agent's beats for as long as this process is there.
func (h *health) listen() {
	var count [8]byte
	for {
		n, err := syscall.Read(h.fd, count[:])
		switch {
		case err == syscall.EINTR:
		case err != nil || n != len(count):
			say("the agent's heartbeat cannot be heard any more")
			return
		default:
			h.beats <- struct{}{}
		}
	}
}

// beat notes that the agent is well. The first one means that it serves.
func (s *supervisor) beat() {
	if s.agent == 0 || !s.health.asked.IsZero() {
		return // of one that has ended since, or is about to
	}
	if s.health.last.IsZero() {
		if err := keeper.WriteAside(s.dir.AgentReady(), pidLine(s.agent)); err != nil {
			say("note that the agent serves: " + err.Error())
		}
		notify("READY=1\nSTATUS=serving, agent " + strconv.Itoa(s.agent))
	}
	s.health.last = time.Now()
}

// look ends an agent that is wedged, or that does not stop. Who is late itself
// forgives: a machine that slept proves nothing.
func (s *supervisor) look() {
	h, now := s.health, time.Now()
	late := !h.looked.IsZero() && now.Sub(h.looked) > 2*lookEvery
	h.looked = now
	notify("WATCHDOG=1")
	switch {
	case s.agent == 0:
	case late:
		if !h.last.IsZero() {
			h.last = now
		}
	case !h.asked.IsZero() && now.Sub(h.asked) > stopWithin:
		say("the agent does not stop: it is killed")
		_ = syscall.Kill(s.agent, syscall.SIGKILL)
	case h.asked.IsZero() && !h.last.IsZero() && now.Sub(h.last) > wedgedAfter:
		say("the agent is wedged: no sign of life for " + strconv.Itoa(int(now.Sub(h.last)/time.Second)) + " s; it is killed and started again")
		_ = syscall.Kill(s.agent, syscall.SIGKILL)
	}
}

// begun forgets the agent before.
func (h *health) begun() {
	h.last, h.asked = time.Time{}, time.Time{}
	select {
	case <-h.beats:
	default:
	}
}

// end tells the agent to end.
func (s *supervisor) end() {
	if s.agent != 0 {
		s.health.asked = time.Now()
		_ = syscall.Kill(s.agent, syscall.SIGTERM)
	}
}

// agentEnv is the environment of the agent: its heartbeat is descriptor 3, and
// what the service manager told was told to the keeper alone. Nor does it leave a
// core when it panics, as the keeper may: its memory holds keys.
func agentEnv() []string {
	env := []string{keeper.BeatEnv + "=3"}
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case notifySocket, "WATCHDOG_PID", "WATCHDOG_USEC", keeper.BeatEnv, keeper.TracebackEnv:
		default:
			env = append(env, v)
		}
	}
	return env
}

const notifySocket = "NOTIFY_SOCKET"

// notify tells the service manager, where there is one, in the words of
// sd_notify(3). It never waits.
func notify(text string) {
	path := os.Getenv(notifySocket)
	if path == "" {
		return
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err == nil {
		err = syscall.Sendto(fd, []byte(text), syscall.MSG_NOSIGNAL, &syscall.SockaddrUnix{Name: path})
		_ = syscall.Close(fd)
	}
	if err != nil {
		say("tell the service manager: " + err.Error())
	}
}
