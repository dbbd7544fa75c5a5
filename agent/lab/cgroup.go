package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one line of mountinfo.
type mount struct{ point, kind string }

func mounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var out []mount
	for line := range strings.Lines(string(text)) {
		left, right, ok := strings.Cut(line, " - ")
		f, kind := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(kind) == 0 {
			continue
		}
		out = append(out, mount{point: unescape(f[4]), kind: kind[0]})
	}
	return out, nil
}

// unescape undoes \040 and its like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmountBelow removes every mount in a directory, the last one first. Those that
// are in use elsewhere go when they no longer are.
func unmountBelow(dir string) error {
	for range 8 { // a mount may hide others of the same place
		all, err := mounts()
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(m mount) bool { return m.point != dir && !strings.HasPrefix(m.point, dir+"/") })
		if len(all) == 0 {
			return nil
		}
		for _, m := range slices.Backward(all) {
			if err := unix.Unmount(m.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("unmount %s: %w", m.point, err)
			}
		}
	}
	return fmt.Errorf("mounts below %s come back again and again", dir)
}

// cgroupDirs are the directories of one cgroup in every hierarchy that has it.
func cgroupDirs(path string) ([]string, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range all {
		if m.kind != "cgroup" && m.kind != "cgroup2" {
			continue
		}
		dir := filepath.Join(m.point, path)
		if _, err := os.Stat(dir); err == nil {
			out = append(out, dir)
		}
	}
	return out, nil
}

// below walks a cgroup, children before parents.
func below(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // removed while we walked
		case err != nil:
			return err
		case e.IsDir():
			out = append(out, path)
		}
		return nil
	})
	slices.Reverse(out)
	return out, err
}

// members are the processes in a cgroup and all below it. Those that are frozen
// are thawed, or SIGKILL would wait.
func members(path string) ([]process, error) {
	dirs, err := cgroupDirs(path)
	if err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	var out []process
	for _, top := range dirs {
		all, err := below(top)
		if err != nil {
			return nil, fmt.Errorf("walk cgroup %s: %w", top, err)
		}
		for _, dir := range all {
			thaw(dir)
			text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue // it was removed just now
			}
			for _, f := range strings.Fields(string(text)) {
				pid, err := strconv.Atoi(f)
				if err != nil || seen[pid] || pid == os.Getpid() {
					continue
				}
				seen[pid] = true
				if p, ok := findProcess(pid); ok {
					out = append(out, p)
				}
			}
		}
	}
	return out, nil
}

// thaw is for either version; the other's file does not exist.
func thaw(dir string) {
	for file, value := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
		if f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0); err == nil {
			_, _ = f.WriteString(value) // what stays frozen is told by who waits for it
			_ = f.Close()
		}
	}
}

// removeCgroup removes an empty cgroup and all below it, in every hierarchy. One
// whose last process has just died is busy for a moment.
func removeCgroup(path string) error {
	dirs, err := cgroupDirs(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, top := range dirs {
		all, err := below(top)
		errs = append(errs, err)
		for _, dir := range all {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
			}
		}
	}
	return errors.Join(errs...)
}
