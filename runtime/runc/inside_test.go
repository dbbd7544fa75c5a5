package runc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skein-dev/skein/runtime/container"
)

func (s *scene) one(words ...string) container.Spec {
	return s.spec(container.ID{Pod: "pod", Name: fmt.Sprintf("c%d", worlds.Add(1))}, words...)
}

func TestDefaultsConfine(t *testing.T) {
	s := newScene(t)
	s.serve()
	got := s.says(s.one("status", "CapEff", ";", "status", "CapBnd", ";", "status", "CapInh", ";", "status", "NoNewPrivs", ";", "status", "Seccomp", ";",
		"write", "/proc/sys/kernel/hostname", ";", "read", "/proc/keys", ";", "write", "/sys/fs/cgroup/x", ";", "write", limitFile(s), ";", "id", ";", "pwd"))
	want := strings.Join([]string{
		"CapEff 00000000a80425fb", "CapBnd 00000000a80425fb", "CapInh 0000000000000000", "NoNewPrivs 1", "Seccomp 2",
		"open /proc/sys/kernel/hostname: read-only file system", "", "open /sys/fs/cgroup/x: read-only file system", "open " + limitFile(s) + ": read-only file system", "0 0 []", "/",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inside (-want +got):\n%s", diff)
	}
}

// limitFile is where a container would lift its own limit.
func limitFile(s *scene) string {
	if s.groups.unified {
		return "/sys/fs/cgroup/pids.max"
	}
	return "/sys/fs/cgroup/memory/memory.limit_in_bytes"
}

func TestWhatIsAskedForIsGiven(t *testing.T) {
	s := newScene(t)
	s.serve()
	tests := map[string]struct {
		words []string
		ask   func(*container.Spec)
		want  string
	}{
		"no capabilities": {
			words: []string{"status", "CapBnd"},
			ask:   func(c *container.Spec) { c.Security.DropCapabilities = []string{"ALL"} }, want: "CapBnd 0000000000000000",
		},
		"one more than none": {
			words: []string{"status", "CapBnd"},
			ask: func(c *container.Spec) {
				c.Security.DropCapabilities, c.Security.AddCapabilities = []string{"all"}, []string{"net_admin"}
				c.Security.Allowed.Capabilities = []string{"NET_ADMIN"}
			}, want: "CapBnd 0000000000001000",
		},
		"no seccomp, new privileges": {
			words: []string{"status", "Seccomp", ";", "status", "NoNewPrivs"},
			ask:   func(c *container.Spec) { c.Security.Unconfined, c.Security.AllowPrivilegeEscalation = true, true },
			want:  "Seccomp 0\nNoNewPrivs 0",
		},
		"a read-only root": {
			words: []string{"write", "/x", ";", "write", "/dev/shm/x"},
			ask:   func(c *container.Spec) { c.Security.ReadOnlyRoot = true }, want: "open /x: read-only file system\nwrote /dev/shm/x",
		},
		"a user by name, with the groups of the image": {
			words: []string{"id"}, ask: func(c *container.Spec) { c.User = "redis"; c.Groups = []uint32{7} }, want: "999 998 [7 44]",
		},
		"a user by numbers that are nobody's": {
			words: []string{"id"}, ask: func(c *container.Spec) { c.User = "1000:1000" }, want: "1000 1000 []",
		},
		"a working directory that is missing": {
			words: []string{"pwd"}, ask: func(c *container.Spec) { c.Cwd = "/srv/app" }, want: "/srv/app",
		},
		"an environment": {
			words: []string{"env", "A", ";", "env", "HOME"}, ask: func(c *container.Spec) { c.Env = []string{"A=b"} }, want: "b\n/root",
		},
		"a mount of one's own over ours": {
			words: []string{"read", "/etc/hostname"},
			ask: func(c *container.Spec) {
				c.Mounts = []container.Mount{{Type: "bind", Source: filepath.Join(world, "image/etc/group"), Target: "/etc/hostname", Options: []string{"bind", "ro"}}}
			}, want: "root:x:0:\nredis:x:998:\nlog:x:44:redis",
		},
		"names of the Pod in a volume over their folder": {
			words: []string{"read", "/etc/hostname", ";", "read", "/etc/group"},
			ask: func(c *container.Spec) {
				dir := filepath.Join(s.dir, "etc")
				s.must(os.Mkdir(dir, 0o755))
				s.must(os.WriteFile(filepath.Join(dir, "group"), []byte("of the volume"), 0o644))
				s.must(os.WriteFile(filepath.Join(dir, "hostname"), []byte("hidden"), 0o644))
				c.Mounts = []container.Mount{{Type: "bind", Source: dir, Target: "/etc", Options: []string{"bind", "rw"}}}
			}, want: "host-pod\nof the volume",
		},
		"a volume over their folder that has no place for them": {
			words: []string{"read", "/etc/hostname", ";", "read", "/etc/group"},
			ask: func(c *container.Spec) {
				dir := filepath.Join(s.dir, "etc-ro")
				s.must(os.Mkdir(dir, 0o755))
				s.must(os.WriteFile(filepath.Join(dir, "group"), []byte("of the volume"), 0o644))
				c.Mounts = []container.Mount{{Type: "bind", Source: dir, Target: "/etc", Options: []string{"bind", "ro"}}}
			}, want: "open /etc/hostname: no such file or directory\nof the volume",
		},
		"limits of its processes": {
			words: []string{"limit", "Max core", ";", "limit", "Max stack", ";", "limit", "Max open files", ";", "limit", "Max locked"},
			ask: func(c *container.Spec) {
				c.Ulimits = []container.Ulimit{
					{Name: "core", Soft: 0, Hard: 4096},
					{Name: "stack", Soft: 1 << 20, Hard: container.Unlimited},
					{Name: "nofile", Soft: 200, Hard: 200},
					{Name: "memlock", Soft: 65536, Hard: 65536},
				}
			},
			want: "Max core file size 0 4096 bytes\nMax stack size 1048576 unlimited bytes\nMax open files 200 200 files\nMax locked memory 65536 65536 bytes",
		},
		"settings of the kernel": {
			words: []string{"read", "/proc/sys/net/ipv4/ip_unprivileged_port_start", ";", "read", "/proc/sys/kernel/shm_rmid_forced"},
			ask: func(c *container.Spec) {
				c.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
			}, want: "80\n1",
		},
		"names of the Pod": {words: []string{"read", "/etc/hostname", ";", "hostname"}, ask: func(*container.Spec) {}, want: "host-pod\nhost-pod"},
		"privileges": {
			words: []string{"status", "Seccomp", ";", "status", "NoNewPrivs", ";", "write", "/proc/sys/kernel/printk_ratelimit"},
			ask:   func(c *container.Spec) { c.Security.Privileged, c.Security.Allowed.Privileged = true, true },
			want:  "Seccomp 0\nNoNewPrivs 0\nwrite /proc/sys/kernel/printk_ratelimit: invalid argument",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec := s.one(tt.words...)
			tt.ask(&spec)
			if diff := cmp.Diff(tt.want, s.says(spec)); diff != "" {
				t.Errorf("inside (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsWrongIsTold(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.prepare("pod")
	tests := map[string]struct {
		ask  func(*container.Spec)
		want string
	}{
		"no such program":     {func(c *container.Spec) { c.Args = []string{"/missing"} }, "no such file"},
		"no such user":        {func(c *container.Spec) { c.User = "nobody-here" }, `user "nobody-here"`},
		"no such group":       {func(c *container.Spec) { c.User = "redis:none" }, `group "none"`},
		"a user out of range": {func(c *container.Spec) { c.User = "4294967296" }, "out of range"},
		"no program":          {func(c *container.Spec) { c.Args = nil }, "nothing to run"},
		"no root":             {func(c *container.Spec) { c.RootFS = nil }, "no root file system"},
		"a mount in /proc": {func(c *container.Spec) {
			c.Mounts = []container.Mount{{Type: "tmpfs", Source: "tmpfs", Target: "/proc/x"}}
		}, "refused by policy"},
		"a capability nobody knows": {func(c *container.Spec) {
			c.Security.AddCapabilities, c.Security.Allowed.Capabilities = []string{"FLY"}, []string{"ALL"}
		}, `capability "FLY"`},
		"a limit that no machine has": {
			func(c *container.Spec) { c.Ulimits = []container.Ulimit{{Name: "nofile", Soft: 1, Hard: 1 << 40}} }, "above the hard limit of this machine",
		},
		"a limit nobody knows": {func(c *container.Spec) { c.Ulimits = []container.Ulimit{{Name: "fun"}} }, `ulimit "fun"`},
		"a name with a slash":  {func(c *container.Spec) { c.ID.Name = "../x" }, "no name for a container"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			spec := s.one("exit", "0")
			tt.ask(&spec)
			err := s.Start(t.Context(), spec)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			list, err := s.List(t.Context())
			if err != nil || len(list) != 0 {
				t.Errorf("listed: %v, %v", list, err)
			}
		})
	}
}

// Descriptors that leak into a container are a way out of it.
func TestNoDescriptorLeaks(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("fds", ";", "sleep"))
	s.heard(id, "sleeping")
	check := func(where, text string) {
		t.Helper()
		for line := range strings.Lines(text) {
			if n, to, ok := strings.Cut(strings.TrimSpace(line), " "); ok && n > "2" && n != "sleeping" {
				t.Errorf("%s: descriptor %s is %s", where, n, to)
			}
		}
	}
	s.must(s.Stop(t.Context(), id, time.Minute))
	check("container", strings.Join(s.output(id), "\n"))
	id = s.start(s.one("sleep"))
	var out bytes.Buffer
	if _, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "fds"}, Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	check("exec", out.String())
	out.Reset()
	if _, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "fds"}, Stdout: &out, TTY: true}); err != nil {
		t.Fatal(err)
	}
	check("terminal", out.String())
}

func TestOutOfMemoryIsToldAsSuch(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("say", "eating", ";", "eat", "200")
	spec.Resources.MemoryBytes = 64 << 20
	id := s.start(spec)
	if got := s.exited(id); got.ExitCode != 137 || got.Signal != 9 || !got.OOMKilled {
		t.Errorf("%+v, want killed for want of memory", got)
	}
	s.open()
	if got := s.status(id); !got.OOMKilled {
		t.Errorf("another driver: %+v", got)
	}
}

func TestLimitsHold(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("sleep")
	spec.Resources = container.Resources{CPUMilli: 250, CPUShares: 500, MemoryBytes: 64 << 20, PIDs: 50, OOMScoreAdj: 300}
	id := s.start(spec)
	s.heard(id, "sleeping")
	read := func(controller, v1, v2 string) string {
		name := v1
		if s.groups.unified {
			name = v2
		}
		text, err := os.ReadFile(s.groups.file(s.cgroup(id), controller, name))
		s.must(err)
		return strings.TrimSpace(string(text))
	}
	got := []string{
		read("memory", "memory.limit_in_bytes", "memory.max"), read("pids", "pids.max", "pids.max"),
		read("cpu", "cpu.cfs_quota_us", "cpu.max"),
	}
	want := []string{"67108864", "50", "25000"}
	if s.groups.unified {
		want[2] = "25000 100000"
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.status(id).PID))
	if err != nil || strings.TrimSpace(string(text)) != "300" {
		t.Errorf("oom_score_adj %s, %v", text, err)
	}
}

func TestUsageIsRead(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("eat", "40", ";", "burn", "50", ";", "sleep"))
	s.heard(id, "sleeping")
	for range 2 { // the second time with files that are open
		list, err := s.Usage(t.Context())
		s.must(err)
		if len(list) != 1 || list[0].ID != id || list[0].MemoryBytes < 40<<20 || list[0].MemoryBytes > 80<<20 || list[0].CPU <= 0 || list[0].PIDs < 1 {
			t.Errorf("usage %+v", list)
		}
	}
	s.must(s.Stop(t.Context(), id, time.Minute))
	if list, err := s.Usage(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("of an exited one: %+v, %v", list, err)
	}
}

// Ten thousand children are tried; those that its limit leaves are had, others of the
// machine notice nothing, and all of them go with the container.
func TestWhoForksWithoutEnd(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("fork", "10000", ";", "sleep")
	spec.Resources.PIDs = 100
	bomb := s.start(spec)
	said := s.heard(bomb, "forked ")
	if n, err := strconv.Atoi(strings.TrimPrefix(said, "forked ")); err != nil || n < 10 || n >= 100 {
		t.Errorf("it %s, of 100 that it may have", said)
	}
	if got := s.says(s.one("say", "hello")); got != "hello" {
		t.Errorf("another container says %q", got)
	}
	s.must(s.Remove(t.Context(), bomb)) // what is left of it fails the end of the test
}

func TestHowNamesAreLookedUp(t *testing.T) {
	s := newScene(t)
	s.serve()
	for pod, text := range map[string]string{"own": "nameserver 192.0.2.1\n", "images": ""} {
		s.must(s.Prepare(t.Context(), container.Sandbox{Pod: pod, Hostname: pod, Resolv: text}))
		spec := s.spec(container.ID{Pod: pod, Name: "c"}, "read", "/etc/resolv.conf")
		s.must(s.Start(t.Context(), spec))
		want := "nameserver 192.0.2.1"
		if text == "" {
			want = "open /etc/resolv.conf: no such file or directory"
		}
		s.exited(spec.ID)
		if got := strings.Join(s.output(spec.ID), "\n"); got != want {
			t.Errorf("%s: %q, want %q", pod, got, want)
		}
	}
}

func TestHostNetwork(t *testing.T) {
	s := newScene(t)
	s.serve()
	s.must(s.Prepare(t.Context(), container.Sandbox{Pod: "pod", Hostname: "own", HostNetwork: true}))
	id := container.ID{Pod: "pod", Name: "c"}
	s.must(s.Start(t.Context(), s.spec(id, "hostname", ";", "sleep")))
	s.heard(id, "sleeping")
	pid := s.status(id).PID
	for kind, own := range map[string]bool{"net": false, "ipc": true, "uts": true, "pid": true, "mnt": true} {
		theirs, err1 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		ours, err2 := os.Readlink("/proc/self/ns/" + kind)
		if err := errors.Join(err1, err2); err != nil || (theirs != ours) != own {
			t.Errorf("%s: %s inside, %s outside, %v", kind, theirs, ours, err)
		}
	}
	if got := s.heard(id, "own"); got != "own" {
		t.Errorf("called %q", got)
	}
	if _, err := s.Dial(t.Context(), "pod", "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v", err)
	}
}

func TestContainersOfAPodShare(t *testing.T) {
	s := newScene(t)
	s.serve()
	server := s.start(s.one("serve", "127.0.0.1:7001", ";", "write", "/dev/shm/note", ";", "sleep"))
	s.heard(server, "sleeping")
	if got := s.says(s.one("dial", "127.0.0.1:7001", ";", "read", "/dev/shm/note")); got != "hello\nwritten" {
		t.Errorf("the other one of the Pod got %q", got)
	}
	other := s.spec(container.ID{Pod: "other", Name: "c"}, "read", "/dev/shm/note", ";", "dial", "127.0.0.1:7001")
	id := s.start(other)
	if got := s.exited(id); got.ExitCode != 65 {
		t.Errorf("another Pod: %+v, %v", got, s.output(id))
	}
}

func TestARootOfManyLayers(t *testing.T) {
	s := newScene(t)
	s.serve()
	var layers []string
	for i := range 100 {
		dir := filepath.Join(s.dir, fmt.Sprintf("layer-with-a-long-name-as-stores-have-them-%d", i))
		s.must(os.Mkdir(dir, 0o755))
		s.must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), []byte(fmt.Sprint(i)), 0o644))
		layers = append(layers, dir)
	}
	spec := s.one("read", "/f0", ";", "read", "/f99", ";", "write", "/x")
	spec.RootFS[0].Options[0] = "lowerdir=" + strings.Join(layers, ":") + ":" + filepath.Join(world, "image")
	if got := s.says(spec); got != "0\n99\nwrote /x" {
		t.Errorf("inside: %q", got)
	}
}

// What kernels before 6.8 need is tried on every one.
func TestManyLayersByDescriptor(t *testing.T) {
	dir := filepath.Join(world, t.Name())
	target := filepath.Join(dir, "root")
	var layers []string
	for i := range 127 { // as many as images may have
		layer := filepath.Join(dir, fmt.Sprintf("layer-with-a-long-name-as-stores-have-them-%d", i))
		if err := errors.Join(os.MkdirAll(layer, 0o755), os.WriteFile(filepath.Join(layer, fmt.Sprintf("f%d", i)), nil, 0o644), os.WriteFile(filepath.Join(layer, "top"), []byte(fmt.Sprint(i)), 0o644)); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mountByDescriptor("overlay", []string{"lowerdir=" + strings.Join(layers, ":")}, 0, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unmountAll(target), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for i := range layers {
		if _, err := os.Stat(filepath.Join(target, fmt.Sprintf("f%d", i))); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(target, "top")); err != nil || string(text) != "0" {
		t.Errorf("the first layer is not the uppermost: %q, %v", text, err)
	}
	gone := []string{"lowerdir=" + layers[0] + ":/nonexistent"}
	if err := mountByDescriptor("overlay", gone, 0, target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a layer that is not there: %v", err)
	}
}

func TestTerminal(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep"))
	t.Run("has a size that changes", func(t *testing.T) {
		sizes := make(chan container.Size)
		out := &tellsWhen{text: "ready", said: make(chan struct{})}
		go func() {
			<-out.said
			sizes <- container.Size{Columns: 120, Rows: 40}
		}()
		code, err := s.Exec(t.Context(), id, container.ExecSpec{
			Args: []string{"/prog", "size", "1", ";", "env", "TERM", ";", "exit", "9"}, Env: []string{"TERM=vt100"}, TTY: true, Stdout: out, Resize: sizes,
		})
		if err != nil || code != 9 {
			t.Errorf("exit code %d, %v", code, err)
		}
		if got := out.buf.String(); got != "ready\r\n120 40 true\r\nvt100\r\n" {
			t.Errorf("wrote %q", got)
		}
	})
	t.Run("has its size from the beginning", func(t *testing.T) {
		var out bytes.Buffer
		code, err := s.Exec(t.Context(), id, container.ExecSpec{
			Args: []string{"/prog", "size", "0"}, TTY: true, Size: container.Size{Columns: 100, Rows: 30}, Stdout: &out,
		})
		if got := out.String(); err != nil || code != 0 || got != "ready\r\n100 30 true\r\n" {
			t.Errorf("exit code %d, %v, wrote %q", code, err, got)
		}
	})
	t.Run("is typed at", func(t *testing.T) {
		var out bytes.Buffer
		code, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "lines"}, TTY: true, Stdin: strings.NewReader("one\ntwo\n"), Stdout: &out})
		if err != nil || code != 0 || !strings.Contains(out.String(), "got one\r\n") || !strings.Contains(out.String(), "got two\r\n") {
			t.Errorf("exit code %d, %v, wrote %q", code, err, &out)
		}
	})
	t.Run("knows ^C", func(t *testing.T) {
		r, w := io.Pipe()
		out := &tellsWhen{text: "stubborn", said: make(chan struct{})}
		go func() {
			<-out.said
			_, _ = w.Write([]byte{3})
		}()
		code, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/prog", "stubborn"}, TTY: true, Stdin: r, Stdout: out})
		_ = w.Close()
		if err != nil || code != 130 {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
	t.Run("tells what cannot be run", func(t *testing.T) {
		for _, tty := range []bool{true, false} {
			_, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{"/missing"}, TTY: tty})
			var told *ComplaintError
			if !errors.As(err, &told) || !strings.Contains(told.Text, "/missing") {
				t.Errorf("terminal %v: %v", tty, err)
			}
		}
	})
	if left, _ := filepath.Glob(filepath.Join(s.cfg.RunDir, "exec", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	exits, err := s.keeper.ListExits()
	if err != nil || len(exits) > 0 {
		t.Errorf("exits left: %v, %v", exits, err)
	}
}

// tellsWhen keeps what is written and tells when a text is among it.
type tellsWhen struct {
	buf  bytes.Buffer
	text string
	said chan struct{}
}

func (w *tellsWhen) Write(b []byte) (int, error) {
	had := strings.Contains(w.buf.String(), w.text)
	n, err := w.buf.Write(b)
	if !had && strings.Contains(w.buf.String(), w.text) {
		close(w.said)
	}
	return n, err
}

// A program that is given up takes what it has started with it.
func TestExecEndsWithItsChildren(t *testing.T) {
	for _, tty := range []bool{false, true} {
		s := newScene(t)
		s.serve()
		id := s.start(s.one("sleep"))
		ctx, cancel := contextWithCancel(t)
		out := &tellsWhen{text: "spawned", said: make(chan struct{})}
		go func() { <-out.said; cancel() }()
		_, err := s.Exec(ctx, id, container.ExecSpec{Args: []string{"/prog", "spawn", "stubborn", ";", "stubborn"}, Stdout: out, TTY: tty})
		if !errors.Is(err, ctx.Err()) {
			t.Errorf("terminal %v: %v", tty, err)
		}
		s.awaitAlone(id)
		if got := s.status(id); got.State != container.Running {
			t.Errorf("terminal %v: the container itself: %+v", tty, got)
		}
	}
}

// A program that is run inside is confined as the container's own.
func TestExecIsWhatItsContainerIs(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("sleep")
	spec.User, spec.Security.ReadOnlyRoot, spec.Env = "redis", true, []string{"PATH=/", "COLOUR=blue"}
	id := s.start(spec)
	var out bytes.Buffer
	run := func(words ...string) (int, error) {
		out.Reset()
		return s.Exec(t.Context(), id, container.ExecSpec{Args: append([]string{"/prog"}, words...), Stdout: &out, Stderr: &out})
	}
	if code, err := run("id", ";", "env", "COLOUR", ";", "write", "/x", ";", "status", "NoNewPrivs", ";", "status", "Seccomp"); err != nil || code != 0 {
		t.Fatal(code, err, out.String())
	}
	want := "999 998 [44]\nblue\nopen /x: read-only file system\nNoNewPrivs 1\nSeccomp 2\n"
	if out.String() != want {
		t.Errorf("says %q, want %q", &out, want)
	}
	for _, tty := range []bool{false, true} {
		for _, path := range []string{"/no/such", "no-such", "/etc/passwd"} {
			_, err := s.Exec(t.Context(), id, container.ExecSpec{Args: []string{path}, TTY: tty, Stdout: &out, Stderr: &out})
			if err == nil || !strings.Contains(err.Error(), "unable to start container process") {
				t.Errorf("exec of %s, terminal %v: %v", path, tty, err)
			}
		}
	}
	if left, _ := os.ReadDir(filepath.Join(s.cfg.RunDir, "exec")); len(left) > 0 {
		t.Errorf("sessions left: %v", left)
	}
}
