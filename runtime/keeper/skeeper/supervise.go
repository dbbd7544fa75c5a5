package main

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// An agent that dies is started again at once, and after each further death
// within calm twice as late as before.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = 3 * time.Second
	calm       = 10 * time.Second
	patience   = 5 * time.Second // for the agent of a keeper that died
)

// usageCode is how a program ends that was called in a way that cannot work.
const usageCode = 2

// A supervisor keeps the agent running and reaps. All of it runs on the main
// thread.
type supervisor struct {
	dir  keeper.Dir
	argv []string
	out  *collector
	boot string

	health *health

	agent    int // pid, 0 while none runs
	since    time.Time
	delay    time.Duration
	due      <-chan time.Time // when to start the agent
	stopping bool
	code     int // to end with
}

// run serves until a SIGTERM was obeyed.
func (s *supervisor) run(children, orders <-chan os.Signal) error {
	released := make(chan struct{}, 1)
	go watchHold(s.dir, released)
	go s.health.listen()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	s.reap()
	if s.agent == 0 {
		s.start()
	}
	for !s.stopping || s.agent != 0 {
		select {
		case <-children:
			s.reap()
		case <-released:
			if s.agent == 0 && !s.stopping {
				s.start()
			}
		case <-s.due:
			s.start()
		case <-s.health.beats:
			s.beat()
		case <-look.C:
			s.look()
		case sig := <-orders:
			s.obey(sig)
		}
	}
	s.out.stop()
	left := leftRunning(len(s.out.sinks))
	say(left)
	notify("STATUS=" + left)
	_ = os.Remove(s.dir.AgentState())
	_ = os.Remove(s.dir.AgentPID())
	return os.Remove(s.dir.KeeperPID())
}

func (s *supervisor) obey(sig os.Signal) {
	switch {
	case sig == syscall.SIGHUP:
		if !s.stopping {
			s.reload()
		}
	case s.stopping && s.agent != 0:
		_ = syscall.Kill(s.agent, syscall.SIGKILL) // asked twice
	default:
		s.stopping, s.due = true, nil
		notify("STOPPING=1")
		s.end()
	}
}

// leftRunning says what a keeper that stops leaves behind.
func leftRunning(containers int) string {
	if containers == 0 {
		return "stopped; no containers run"
	}
	return "stopped; containers that run on: " + strconv.Itoa(containers) + "; the next start takes them up again"
}

// start starts the agent unless it is held back. It is told when this keeper
// dies: its successor starts its own.
func (s *supervisor) start() {
	s.due = nil
	if exists(s.dir.Hold()) {
		return
	}
	pid, err := syscall.ForkExec(s.argv[0], s.argv, &syscall.ProcAttr{
		Env: agentEnv(), Files: []uintptr{0, 1, 2, uintptr(s.health.fd)}, //nolint:gosec // a descriptor is small
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM},
	})
	s.since = time.Now()
	if err != nil {
		say("start the agent: " + err.Error())
		s.again()
		return
	}
	s.agent = pid
	s.health.begun()
	notify("STATUS=the agent starts, pid " + strconv.Itoa(pid))
	if err := s.note(); err != nil {
		say("note the agent's pid: " + err.Error())
	}
}

func (s *supervisor) note() error {
	stat, err := keeper.ReadStat(s.agent)
	if err != nil {
		return err
	}
	state := strconv.Itoa(s.agent) + " " + strconv.FormatUint(stat.Start, 10) + " " + s.boot + "\n"
	return errors.Join(keeper.WriteAside(s.dir.AgentState(), []byte(state)), keeper.WriteAside(s.dir.AgentPID(), pidLine(s.agent)))
}

// again plans the next start.
func (s *supervisor) again() {
	if s.stopping {
		return
	}
	if time.Since(s.since) >= calm {
		s.delay = 0
	}
	s.due = time.After(s.delay)
	s.delay = min(max(2*s.delay, firstDelay), lastDelay)
}

// reap takes every child that has ended. How an orphan ended is on disk before
// it is reaped; should the disk refuse, whoever holds a pidfd of it can still
// ask the kernel.
func (s *supervisor) reap() {
	for {
		pid, status := ended()
		if pid == 0 {
			return
		}
		if pid == s.agent {
			reap(pid)
			s.agent = 0
			_ = os.Remove(s.dir.AgentPID())
			_ = os.Remove(s.dir.AgentReady())
			if !s.stopping {
				say("the agent ended: " + how(status))
				notify("STATUS=the agent ended, " + how(status) + "; containers run on")
			}
			s.giveUp(status)
			s.again()
			continue
		}
		stat, err := keeper.ReadStat(pid)
		if err == nil {
			err = s.dir.WriteExit(keeper.Exit{PID: pid, Start: stat.Start, Status: status, Time: time.Now()})
		}
		if err != nil {
			say("keep the exit of " + strconv.Itoa(pid) + " (" + how(status) + "): " + err.Error())
		}
		reap(pid)
	}
}

// giveUp ends the keeper with an agent that would end the same way for ever.
func (s *supervisor) giveUp(status syscall.WaitStatus) {
	if s.stopping || !status.Exited() {
		return
	}
	var why string
	switch status.ExitStatus() {
	case keeper.ExitUsage:
		s.code, why = usageCode, "its settings cannot work"
	case keeper.ExitRemoved:
		s.code, why = keeper.ExitRemoved, "this node was removed from its cluster"
	default:
		return
	}
	say("the agent is not started again: " + why)
	s.stopping = true
	notify("STOPPING=1")
}

func how(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal " + strconv.Itoa(int(status.Signal()))
	}
	return "exit code " + strconv.Itoa(status.ExitStatus())
}

// adopt finds the agent that an earlier keeper has left: its own, when that
// keeper was this very process before SIGHUP, goes on; another's is ended.
func (s *supervisor) adopt() error {
	text, err := os.ReadFile(s.dir.AgentState())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var p keeper.Process
	if f := strings.Fields(string(text)); len(f) == 3 {
		p.PID, _ = strconv.Atoi(f[0])
		p.Start, _ = strconv.ParseUint(f[1], 10, 64)
		p.Boot = f[2]
	}
	stat, err := p.Stat()
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	if stat.Parent == os.Getpid() {
		s.agent, s.since = p.PID, time.Now()
		if os.Getenv(reloaded) != "" {
			s.end() // the next one is of the new build
		}
		return keeper.WriteAside(s.dir.AgentPID(), pidLine(p.PID))
	}
	return dismiss(p)
}

// dismiss ends an agent that is nobody's child.
func dismiss(p keeper.Process) error {
	say("an agent was left by a keeper that died: pid " + strconv.Itoa(p.PID))
	sig := syscall.SIGTERM
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		stat, err := p.Stat()
		if err != nil || stat.State == 'Z' {
			return nil //nolint:nilerr // it is gone
		}
		if time.Since(begin) > patience {
			sig = syscall.SIGKILL
		}
		if err := syscall.Kill(p.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
}

// reload executes a new keeper in place. Its children stay, and it finds the
// agent by agent.state. When that fails this one goes on.
func (s *supervisor) reload() {
	argv, path := os.Args, "/proc/self/exe"
	env := keeper.Environ()
	if again, err := s.dir.ReloadArgs(); err == nil {
		argv, path = again, again[0]
		env = append(env, reloaded+"=1")
	}
	keepOnExec(s.health.fd)
	env = append(env, beatFD+"="+strconv.Itoa(s.health.fd))
	notify("RELOADING=1\nSTATUS=the keeper is replaced")
	if held := s.out.hold(); held != "" {
		env = append(env, heldFDs+"="+held)
	}
	err := syscall.Exec(path, argv, env)
	say("reload " + path + ": " + err.Error())
	syscall.CloseOnExec(s.health.fd)
	s.out.resume()
	notify("READY=1\nSTATUS=reload failed, all goes on as before: " + err.Error())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// watchHold tells when the hold file has gone.
func watchHold(dir keeper.Dir, released chan<- struct{}) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err == nil {
		_, err = syscall.InotifyAddWatch(fd, string(dir), syscall.IN_DELETE|syscall.IN_MOVED_FROM)
	}
	if err != nil {
		say("watch for the end of hold: " + err.Error())
		return
	}
	buf := make([]byte, 2048)
	for {
		n, err := syscall.Read(fd, buf)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return
		}
		keeper.Events(buf[:max(n, 0)], func(_ int32, _ uint32, name string) {
			if name != "hold" {
				return
			}
			select {
			case released <- struct{}{}:
			default: // one is waiting
			}
		})
	}
}
