// Package keeper owns the folder in which the keeper and its agents meet, and
// the formats of the files in it: pid files, exit files, output of containers.
// The keeper itself, the one process of a node that outlives every agent, is
// in skeeper; the two sides may be of different builds, so they share files and
// never calls. It imports nothing heavy: fmt or net would double the keeper.
//
//	keeper.pid, agent.pid   a pid and a newline
//	agent.ready             the agent's pid, once it serves
//	agent.state             the agent's pid, start time and boot, for the next keeper
//	lock                    held while a keeper serves this folder
//	hold                    while it is there no agent is started
//	reload                  what SIGHUP executes in place, NUL-separated, to replace keeper and
//	                        agent; absent: the same program, and the agent stays
//	features                the keeper's pid, and what it can that older ones cannot
//	exits/PID-START         how an orphan ended
//	logs/ID/                output of one container, see [Dir.OpenLog]
//	logs/ID.end             the agent's wish to finish that output
//	logs/ID.eof             the agent's wish to close that container's input
//	leases/POD              until when a Pod may run, see [Lease]
package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Dir is the folder in which keeper and agent meet.
type Dir string

// The paths in it.
func (d Dir) KeeperPID() string  { return d.join("keeper.pid") }
func (d Dir) AgentPID() string   { return d.join("agent.pid") }
func (d Dir) AgentReady() string { return d.join("agent.ready") }
func (d Dir) AgentState() string { return d.join("agent.state") }
func (d Dir) Lock() string       { return d.join("lock") }
func (d Dir) Hold() string       { return d.join("hold") }
func (d Dir) Reload() string     { return d.join("reload") }
func (d Dir) Features() string   { return d.join("features") }
func (d Dir) Exits() string      { return d.join("exits") }
func (d Dir) Logs() string       { return d.join("logs") }

func (d Dir) join(name string) string { return filepath.Join(string(d), name) }

// Make creates the folder and those in it, readable by its owner alone.
func (d Dir) Make() error {
	for _, path := range []string{string(d), d.Exits(), d.Logs(), d.Leases()} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return err
		}
	}
	return os.Chmod(string(d), 0o700)
}

// HoldVerb is the one argument with which the keeper's program is the first
// process of a Pod whose containers share processes.
const HoldVerb = "hold"

// How an agent ends that is of no use to start again: as it is called it cannot
// work, or its node has been removed from the cluster. The keeper ends with it.
const (
	ExitUsage   = 64 // the keeper's own is 2
	ExitRemoved = 65
)

// A Process is a process for certain: a pid is used again, a pid that started
// at a given tick of a given boot is not.
type Process struct {
	PID   int
	Start uint64 // ticks of 10 ms since boot
	Boot  string // the kernel's boot id
}

// ErrNoProcess says that a process is gone, or another one has its pid.
var ErrNoProcess = errors.New("no such process")

// A Stat is what the kernel says of a process.
type Stat struct {
	State   byte // 'Z' once it has ended and nobody has reaped it
	Parent  int
	Session int
	Start   uint64 // ticks of 10 ms since boot
}

// ReadStat asks the kernel about a process, or answers [ErrNoProcess].
func ReadStat(pid int) (Stat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, ErrNoProcess
	}
	// The name stands in parentheses and may hold any, blanks too.
	_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 {
		return Stat{}, ErrNoProcess
	}
	s := Stat{State: f[0][0]}
	s.Parent, _ = strconv.Atoi(f[1])
	s.Session, _ = strconv.Atoi(f[3])
	s.Start, err = strconv.ParseUint(f[19], 10, 64)
	return s, err
}

// Find makes a Process of a living pid.
func Find(pid int) (Process, error) {
	s, err := ReadStat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{PID: pid, Start: s.Start, Boot: BootID()}, nil
}

// Stat asks the kernel about this very process, or answers [ErrNoProcess].
func (p Process) Stat() (Stat, error) {
	if p.PID <= 0 || p.Boot != BootID() {
		return Stat{}, ErrNoProcess
	}
	s, err := ReadStat(p.PID)
	if err == nil && s.Start != p.Start {
		err = ErrNoProcess
	}
	return s, err
}

// BootID names this boot of the machine.
func BootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// ReadPID reads a pid file.
func ReadPID(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// WriteAside writes a file so that a reader finds the old or the new, never
// half. It is not synced: what it holds matters while the machine runs.
func WriteAside(path string, data []byte) error {
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return err
	}
	return os.Rename(aside, path)
}

// WriteSynced is [WriteAside] for what must survive a loss of power.
func WriteSynced(path string, data []byte) (err error) {
	aside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	f, err := os.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(aside)
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(aside, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// TracebackEnv tells Go how to end a program that panics or is aborted.
const TracebackEnv = "GOTRACEBACK"

// Environ is what to start a keeper with: one that panics, or that a watchdog
// aborts, ends by the signal then. Go's own exit code for that is the one of a
// wrong command line, after which a service manager does not start it again.
func Environ() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, TracebackEnv+"=") })
	return append(env, TracebackEnv+"=crash")
}

// FeatureInput is that a keeper holds terminals and standard inputs.
const FeatureInput = "input"

// WriteFeatures says what this keeper can. It is written once it can.
func (d Dir) WriteFeatures(pid int) error {
	return WriteAside(d.Features(), []byte(strconv.Itoa(pid)+" "+FeatureInput+"\n"))
}

// Can tells whether the keeper that serves this folder has a feature.
func (d Dir) Can(feature string) bool {
	text, err := os.ReadFile(d.Features())
	if err != nil {
		return false
	}
	pid, err := ReadPID(d.KeeperPID())
	f := strings.Fields(string(text))
	return err == nil && len(f) > 0 && f[0] == strconv.Itoa(pid) && slices.Contains(f[1:], feature)
}
