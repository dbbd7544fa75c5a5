package runc

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skein-dev/skein/runtime/container"
)

func TestLookupUser(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("usr/passwd", "root:x:0:0::/:/bin/sh\nbroken\nredis:x:999:998:::\nhuge:x:4294967295:0:::\nodd:x:nine:9:::\n\n")
	write("etc/group", "root:x:0:\nredis:x:998:\nlog:x:44:adm,redis\nbad:x:-1:redis\ndisk:x:6:root,redis\n")
	// An absolute link leads to the image's own file, not the machine's.
	if err := os.Symlink("/usr/passwd", filepath.Join(root, "etc/passwd")); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		user   string
		groups []uint32
		want   specs.User
		err    string
	}{
		"nobody in particular":             {user: "", want: specs.User{AdditionalGids: []uint32{6}}},
		"a name":                           {user: "redis", want: specs.User{UID: 999, GID: 998, AdditionalGids: []uint32{44, 6}}},
		"a number that has a name":         {user: "999", want: specs.User{UID: 999, GID: 998, AdditionalGids: []uint32{44, 6}}},
		"a number that has none":           {user: "1000", want: specs.User{UID: 1000}},
		"a name and a group":               {user: "redis:log", want: specs.User{UID: 999, GID: 44}},
		"a name and a number":              {user: "redis:7", want: specs.User{UID: 999, GID: 7}},
		"numbers":                          {user: "1:2", groups: []uint32{3}, want: specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}}},
		"groups asked for and the image's": {user: "redis", groups: []uint32{44, 5}, want: specs.User{UID: 999, GID: 998, AdditionalGids: []uint32{44, 5, 6}}},
		"a group alone":                    {user: ":log", want: specs.User{GID: 44}},
		"an unknown name":                  {user: "me", err: `user "me"`},
		"an unknown group":                 {user: "redis:me", err: `group "me"`},
		"a number too large":               {user: "2147483648", err: "out of range"},
		"a number much too large":          {user: "99999999999999999999", err: "out of range"},
		"a group too large":                {user: "0:4294967295", err: "out of range"},
		"a name whose number is too large": {user: "huge", err: `user "huge"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := lookupUser(root, tt.user, tt.groups)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("user (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookupUserStaysInTheImage(t *testing.T) {
	for name, fill := range map[string]func(etc string) error{
		"no files":       func(string) error { return nil },
		"links outwards": func(etc string) error { return os.Symlink("../../../../../../etc/passwd", etc+"/passwd") },
		"a FIFO":         func(etc string) error { return syscall.Mkfifo(etc+"/passwd", 0o644) },
		"a folder":       func(etc string) error { return os.Mkdir(etc+"/passwd", 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			etc := filepath.Join(root, "etc")
			if err := errors.Join(os.Mkdir(etc, 0o755), fill(etc)); err != nil {
				t.Fatal(err)
			}
			if u, err := lookupUser(root, "daemon", nil); err == nil { // the machine has one
				t.Errorf("found %+v", u)
			}
		})
	}
}

func TestParseCgroups(t *testing.T) {
	const mixed = `24 1 0:5 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
25 24 0:6 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
26 24 0:7 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
27 24 0:8 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
28 24 0:8 / /var/lib/other/sys/fs/cgroup rw - cgroup2 cgroup2 rw
`
	c := parseCgroups(mixed, false)
	want := []string{"/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"}
	if diff := cmp.Diff(want, c.roots); diff != "" {
		t.Errorf("hierarchies (-want +got):\n%s", diff)
	}
	if got := c.file("/skein/p/c", "cpuacct", "cpuacct.usage"); got != "/sys/fs/cgroup/cpu,cpuacct/skein/p/c/cpuacct.usage" {
		t.Errorf("v1: %s", got)
	}
	c = parseCgroups("30 1 0:9 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", true)
	if diff := cmp.Diff([]string{"/sys/fs/cgroup"}, c.roots); diff != "" {
		t.Errorf("hierarchies (-want +got):\n%s", diff)
	}
	if got := c.file("/skein/p/c", "memory", "memory.events"); got != "/sys/fs/cgroup/skein/p/c/memory.events" {
		t.Errorf("v2: %s", got)
	}
}

func TestParseUsage(t *testing.T) {
	tests := map[string]struct {
		text    [4]string
		unified bool
		want    container.Usage
	}{
		"v1": {
			text: [4]string{"1000\n", "cache 5\ninactive_file 1\ntotal_inactive_file 300\n", "2000000000\n", "7\n"},
			want: container.Usage{MemoryBytes: 700, CPU: 2 * time.Second, PIDs: 7},
		},
		"v2": {
			text:    [4]string{"1000\n", "anon 5\ninactive_file 300\n", "usage_usec 2000000\nuser_usec 1\n", "7\n"},
			unified: true, want: container.Usage{MemoryBytes: 700, CPU: 2 * time.Second, PIDs: 7},
		},
		"read at different moments": {text: [4]string{"100\n", "total_inactive_file 300\n", "1\n", "1\n"}, want: container.Usage{CPU: 1, PIDs: 1}},
	}
	for name, tt := range tests {
		if diff := cmp.Diff(tt.want, parseUsage(tt.text, tt.unified)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestSealedProgramsRunAndDoNotChange(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(world, "image/prog"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Seal("prog", data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("write: %v", err)
	}
	if err := f.Truncate(0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("truncate: %v", err)
	}
	path := filepath.Join("/proc", "self", "fd", "3")
	cmd := exec.Command(path, "say", "sealed")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.Output(); err != nil || string(out) != "sealed\n" {
		t.Errorf("ran: %s, %v", out, err)
	}
}

// A driver runs containers by a sealed runc as well.
func TestContainersStartBySealedRunc(t *testing.T) {
	s := newScene(t)
	data, err := os.ReadFile(s.program)
	s.must(err)
	f, err := Seal("runc", data)
	s.must(err)
	defer f.Close()
	cfg := testConfig(t, s.dir)
	cfg.Path, cfg.Program = "", f
	s.Driver, err = New(cfg)
	s.must(err)
	s.serve()
	if got := s.says(s.one("say", "hello")); got != "hello" {
		t.Errorf("said %q", got)
	}
}

func TestKeyedLocksAreForgotten(t *testing.T) {
	var k keyed[string]
	first := k.lock("a")
	other := k.lock("b")
	shared, shared2 := k.share("c"), k.share("c")
	for _, unlock := range []func(){first, other, shared, shared2} {
		unlock()
	}
	if len(k.locks) != 0 {
		t.Errorf("%d locks are kept", len(k.locks))
	}
}

func TestNamesThatCouldLeadAstrayAreRefused(t *testing.T) {
	for _, id := range []container.ID{
		{Pod: "", Name: "c"},
		{Pod: "..", Name: "c"},
		{Pod: "a/b", Name: "c"},
		{Pod: ".hidden", Name: "c"},
		{Pod: "p", Name: ""},
		{Pod: "p", Name: "a.b"},
		{Pod: "p", Name: "../c"},
		{Pod: "p", Name: "c", Attempt: -1},
		{Pod: strings.Repeat("p", 200), Name: "c"},
		{Pod: "p\x00", Name: "c"},
	} {
		if err := checkID(id); err == nil {
			t.Errorf("%+v was taken", id)
		}
	}
	if err := checkID(container.ID{Pod: "0f3c-11", Name: "web_1", Attempt: 3}); err != nil {
		t.Error(err)
	}
}
