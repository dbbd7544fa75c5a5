package runc

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

func (d *Driver) makeBox(id container.ID, labels map[string]string, p process) (*box, error) {
	b := &box{id: id, labels: labels, proc: p}
	f, err := openPidfd(p.key())
	if err != nil && !errors.Is(err, keeper.ErrNoProcess) {
		return nil, err
	}
	b.pidfd = f
	return b, nil
}

// adopt makes known what an earlier driver has left, and clears away what it
// did not finish.
func (d *Driver) adopt() error {
	disk, err := d.onDisk()
	if err != nil {
		return err
	}
	pods := slices.Collect(maps.Keys(disk))
	if err := errors.Join(d.adoptUsers(pods), d.sweepUsers(pods)); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, ids := range disk {
		for _, id := range ids {
			b, err := d.adoptOne(id)
			if err != nil {
				return fmt.Errorf("adopt %s: %w", id, err)
			}
			if b != nil {
				known[id.String()] = true
				d.boxes[id] = b
			}
		}
	}
	d.endExecs()
	d.sweepExits(0)
	if err := d.sweep(known); err != nil {
		d.log.Warn("something of nobody's is left", "err", err)
	}
	return nil
}

// adoptOne looks at one folder. A start that was not finished is adopted if the
// container's own program runs, or has run; else it is cleared away, and the
// next Start begins anew; then there is no box.
func (d *Driver) adoptOne(id container.ID) (*box, error) {
	var spec container.Spec
	var p process
	errSpec := readJSON(filepath.Join(d.boxDir(id), specFile), &spec)
	errProcess := readJSON(filepath.Join(d.boxDir(id), processFile), &p)
	if errSpec == nil && errProcess != nil && d.launched(id) {
		return d.found(id, spec.Labels)
	}
	if errSpec != nil || errProcess != nil {
		d.log.Info("a start that was broken off is cleared away", "container", id)
		if err := d.undo(id); err != nil {
			// Its Pod's removal tries again. The rest must not wait for it.
			d.log.Error("a start that was broken off left something behind", "container", id, "err", err)
		}
		return nil, nil
	}
	var e exit
	if err := readJSON(filepath.Join(d.boxDir(id), exitFile), &e); err == nil {
		return &box{id: id, labels: spec.Labels, proc: p, exit: &e, stale: d.stale(id, p)}, nil
	}
	b, err := d.makeBox(id, spec.Labels, p)
	if b != nil {
		b.stale = d.stale(id, p)
	}
	return b, err
}

// stale tells whether the sandbox that a container ran in is no more: the machine
// was started anew since.
func (d *Driver) stale(id container.ID, p process) bool {
	return p.Boot != keeper.BootID() || p.Sandbox != "" && p.Sandbox != d.birth(id.Pod)
}

// launched says whether runc has let go the container's program. Before that
// its init waits at a FIFO in runc's folder.
func (d *Driver) launched(id container.ID) bool {
	d.killRunc(id)
	if _, err := os.Stat(filepath.Join(d.runcDir(id), "state.json")); err != nil {
		return false
	}
	if _, err := os.Lstat(filepath.Join(d.runcDir(id), "exec.fifo")); err != nil {
		return true
	}
	// runc died between letting it go and removing the FIFO, or before both.
	var state struct {
		PID int `json:"init_process_pid"`
	}
	if err := readJSON(filepath.Join(d.runcDir(id), "state.json"), &state); err != nil || state.PID <= 0 {
		return false
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", state.PID))
	return err == nil && len(text) > 0 && !bytes.Equal(text, []byte("runc\x00init\x00"))
}

// sweep removes what belongs to no container that is known.
func (d *Driver) sweep(known map[string]bool) error {
	bundles, err := os.ReadDir(filepath.Join(d.cfg.RunDir, "bundles"))
	if err != nil {
		return err
	}
	for _, e := range bundles {
		if known[e.Name()] {
			continue
		}
		dir := filepath.Join(d.cfg.RunDir, "bundles", e.Name())
		if err := errors.Join(unmountAll(filepath.Join(dir, "layers")), unmountAll(filepath.Join(dir, "rootfs")), unmountAll(filepath.Join(dir, "message")), unmountVolumes(dir)); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	logs, err := d.keeper.ListLogs()
	if err != nil {
		return err
	}
	for _, id := range logs {
		if !known[id] {
			if err := d.keeper.RemoveLog(id); err != nil {
				return err
			}
		}
	}
	return nil
}
