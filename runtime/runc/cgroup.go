package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups knows how this machine's control groups are mounted: the one
// hierarchy of v2, or several of v1. runc makes a container's groups; here they
// are read, and what runc leaves is removed.
type cgroups struct {
	unified bool
	roots   []string          // mount points
	of      map[string]string // v1: controller to mount point
	swap    bool              // swap can be limited
}

const cgroupMount = "/sys/fs/cgroup"

func findCgroups() (*cgroups, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: cgroupMount, Err: err}
	}
	c := parseCgroups(string(text), st.Type == unix.CGROUP2_SUPER_MAGIC)
	if len(c.roots) == 0 {
		return nil, errors.New("no control groups are mounted")
	}
	switch {
	case c.unified:
		c.swap = true // runc leaves it out by itself where the kernel cannot
	default:
		_, err := os.Stat(filepath.Join(c.of["memory"], "memory.memsw.limit_in_bytes"))
		c.swap = err == nil && c.of["memory"] != ""
	}
	return c, nil
}

// parseCgroups reads mountinfo. In the mixed form, v1 with an empty v2 beside
// it, v1 counts, as it does for runc.
func parseCgroups(mountinfo string, unified bool) *cgroups {
	c := &cgroups{unified: unified, of: map[string]string{}}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 3 || (g[0] != "cgroup" && g[0] != "cgroup2") {
			continue
		}
		if !strings.HasPrefix(f[4]+"/", cgroupMount+"/") {
			continue // somebody else's view
		}
		c.roots = append(c.roots, f[4])
		if g[0] == "cgroup" {
			for _, option := range strings.Split(g[2], ",") {
				c.of[option] = f[4]
			}
		}
	}
	return c
}

// file is the path of a file of a group, of v2 or of a v1 controller.
func (c *cgroups) file(group, controller, name string) string {
	if c.unified {
		return filepath.Join(cgroupMount, group, name)
	}
	return filepath.Join(c.of[controller], group, name)
}

// oomKills counts the processes that the kernel killed in a group for want of
// memory. A group that is gone has none.
func (c *cgroups) oomKills(group string) int {
	name := "memory.oom_control"
	if c.unified {
		name = "memory.events"
	}
	text, err := os.ReadFile(c.file(group, "memory", name))
	if err != nil {
		return 0
	}
	return int(field(string(text), "oom_kill"))
}

// field reads a number out of lines of a name and a number.
func field(text, name string) int64 {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == name {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return 0
}

// kill kills everything in a group and below it.
func (c *cgroups) kill(group string) {
	if c.unified {
		if os.WriteFile(filepath.Join(cgroupMount, group, "cgroup.kill"), []byte("1"), 0) == nil {
			return
		}
	}
	for _, pid := range c.processes(group) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// processes lists the pids in a group and below it.
func (c *cgroups) processes(group string) []int {
	seen := map[int]bool{}
	var out []int
	for _, root := range c.roots {
		_ = filepath.WalkDir(filepath.Join(root, group), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return nil //nolint:nilerr // what is gone has no processes
			}
			text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for _, f := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					out = append(out, pid)
				}
			}
			return nil
		})
	}
	return out
}

// remove removes a group from all hierarchies, and kills what is still in it.
// Killed processes leave it a moment later.
func (c *cgroups) remove(group string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		var errs []error
		for _, root := range c.roots {
			errs = append(errs, removeGroups(filepath.Join(root, group)))
		}
		err := errors.Join(errs...)
		if err == nil || wait > time.Second {
			return err
		}
		c.kill(group)
		time.Sleep(wait)
	}
}

// removeGroups removes a group with those below it, from the innermost on. The
// files in it are no obstacle to the kernel.
func removeGroups(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", path, err)
	}
	return nil
}
