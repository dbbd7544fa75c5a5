package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// On disk, in Config.StateDir:
//
//	POD/sandbox.json               the sandbox
//	POD/holder.json                the process that holds the namespace in which they share processes
//	POD/NAME.ATTEMPT/spec.json     the wish; alone, a start that was not finished
//	POD/NAME.ATTEMPT/process.json  it has run
//	POD/NAME.ATTEMPT/exit.json     it has ended
const (
	sandboxFile = "sandbox.json"
	holderFile  = "holder.json"
	specFile    = "spec.json"
	processFile = "process.json"
	exitFile    = "exit.json"
)

// A process is the first one of a container.
type process struct {
	PID     int       `json:"pid"`
	Start   uint64    `json:"start"` // ticks since boot
	Boot    string    `json:"boot"`
	Sandbox string    `json:"sandbox,omitempty"` // as birth named it
	Started time.Time `json:"started"`
}

func (p process) key() keeper.Process {
	return keeper.Process{PID: p.PID, Start: p.Start, Boot: p.Boot}
}

// An exit is how a container ended, written once.
type exit struct {
	Code      int       `json:"code"` // -1: nobody could tell
	Signal    int       `json:"signal,omitempty"`
	OOMKilled bool      `json:"oomKilled,omitempty"`
	LeaseLost bool      `json:"leaseLost,omitempty"`
	Message   string    `json:"message,omitempty"`
	Finished  time.Time `json:"finished"`
}

func (d *Driver) podDir(pod string) string { return filepath.Join(d.cfg.StateDir, pod) }

func (d *Driver) boxDir(id container.ID) string {
	return filepath.Join(d.podDir(id.Pod), id.Name+"."+strconv.Itoa(id.Attempt))
}

func (d *Driver) bundle(id container.ID) string {
	return filepath.Join(d.cfg.RunDir, "bundles", id.String())
}

func (d *Driver) rootfs(id container.ID) string { return filepath.Join(d.bundle(id), "rootfs") }

// runcDir is runc's own state of a container.
func (d *Driver) runcDir(id container.ID) string { return filepath.Join(d.runcRoot(), id.String()) }

func (d *Driver) runcRoot() string { return filepath.Join(d.cfg.RunDir, "runc") }

// shared is where the files are that a Pod's containers share.
func (d *Driver) shared(pod string) string { return filepath.Join(d.cfg.RunDir, "pods", pod) }

// cgroup is relative to every hierarchy.
func (d *Driver) cgroup(id container.ID) string {
	return filepath.Join(d.podCgroup(id.Pod), id.Name+"."+strconv.Itoa(id.Attempt))
}

func (d *Driver) podCgroup(pod string) string { return filepath.Join(d.cfg.CgroupParent, pod) }

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, what any, write func(string, []byte) error) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return write(path, text)
}

// checkID refuses what could not be a name of a file, or would make two
// containers one.
func checkID(id container.ID) error {
	if err := checkPod(id.Pod); err != nil {
		return err
	}
	if !wellNamed(id.Name) || strings.Contains(id.Name, ".") || id.Attempt < 0 {
		return fmt.Errorf("no name for a container: %q, attempt %d", id.Name, id.Attempt)
	}
	return nil
}

func checkPod(pod string) error {
	if !wellNamed(pod) {
		return fmt.Errorf("no uid of a Pod: %q", pod)
	}
	return nil
}

func wellNamed(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return name != "" && len(name) <= 128 && strings.Trim(name, letters+"-_.") == "" && strings.Contains(letters, name[:1])
}

// onDisk lists the Pods and, for each, the containers that have a folder.
func (d *Driver) onDisk() (map[string][]container.ID, error) {
	pods, err := os.ReadDir(d.cfg.StateDir)
	if err != nil {
		return nil, err
	}
	out := map[string][]container.ID{}
	for _, p := range pods {
		if !p.IsDir() || checkPod(p.Name()) != nil {
			continue
		}
		out[p.Name()] = nil
		entries, err := os.ReadDir(d.podDir(p.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name, attempt, ok := strings.Cut(e.Name(), ".")
			n, err := strconv.Atoi(attempt)
			id := container.ID{Pod: p.Name(), Name: name, Attempt: n}
			if e.IsDir() && ok && err == nil && checkID(id) == nil {
				out[id.Pod] = append(out[id.Pod], id)
			}
		}
	}
	return out, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
