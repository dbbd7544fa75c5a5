//go:build lab

package labtest

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// census lists what there is of the suite's labs in the kernel and on disk, and
// what they could have left in this machine's own network.
func census(t *testing.T) []string {
	t.Helper()
	var out []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if !strings.HasPrefix(l.Name, "veth") { // others may be at work
			out = append(out, "link "+l.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/lab/"+name+"/") || strings.Contains(line, "skein-"+name+"-") {
			out = append(out, "mount "+line)
		}
	}
	for _, dir := range cgroups(t) {
		out = append(out, "cgroup "+dir)
	}
	for _, pattern := range []string{"/run/skein/lab/" + name, "/run/netns/skein-" + name + "-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		text, err := os.ReadFile(path)
		line := strings.ReplaceAll(string(text), "\x00", " ")
		if err == nil && (strings.Contains(line, "/lab/"+name+"/") || strings.Contains(line, "lab forward --name "+name+" ")) {
			out = append(out, "process "+line)
		}
	}
	return out
}

// settled is the census once the kernel has found time to take things away.
func settled(t *testing.T, want []string) []string {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; {
		after := census(t)
		if slices.Equal(want, after) || time.Now().After(end) {
			return after
		}
		<-time.After(50 * time.Millisecond)
	}
}

// cgroups lists the cgroups of the suite's lab in every hierarchy.
func cgroups(t *testing.T) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if !strings.Contains(line, " - cgroup") || len(f) < 5 {
			continue
		}
		if dir := filepath.Join(f[4], "skein-lab", name); exists(dir) {
			out = append(out, dir)
		}
	}
	return out
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// processes lists what runs in the containers of a node: process ids, by the
// container's cgroup ("<uid of the Pod>/<name>.<attempt>").
func processes(t *testing.T, node string) map[string][]int {
	t.Helper()
	out := map[string][]int{}
	for _, top := range cgroups(t) {
		found, err := filepath.Glob(filepath.Join(top, node, "*", "*", "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil {
				continue // it went away just now
			}
			dir := filepath.Dir(path)
			key := filepath.Base(filepath.Dir(dir)) + "/" + filepath.Base(dir)
			for _, f := range strings.Fields(string(text)) {
				pid, err := strconv.Atoi(f)
				if err == nil && !slices.Contains(out[key], pid) {
					out[key] = append(out[key], pid)
				}
			}
			slices.Sort(out[key])
		}
	}
	for key, pids := range out {
		if len(pids) == 0 {
			delete(out, key)
		}
	}
	return out
}
