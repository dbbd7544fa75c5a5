package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// open gives both FIFOs once the keeper reads them.
func (s *stage) open(id string, limit int64) (stdout, stderr *os.File) {
	s.t.Helper()
	streams, err := s.dir.OpenLog(id, keeper.LogOptions{Limit: limit})
	stdout, stderr = streams[1], streams[2]
	if err == nil {
		err = s.dir.AwaitLog(s.t.Context(), id)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = errors.Join(stdout.Close(), stderr.Close()) })
	return stdout, stderr
}

// text is all that was kept of a container's output.
func (s *stage) text(id string) string {
	s.t.Helper()
	if err := s.dir.EndLog(s.t.Context(), id); err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	err := s.dir.ReadLog(s.t.Context(), id, keeper.ReadOptions{Tail: -1}, func(l keeper.Line) error {
		fmt.Fprintf(&out, "%d%s\n", l.Stream, l.Text)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out.String()
}

func TestOutputReachesTheDisk(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	s.hear("agent")
	stdout, stderr := s.open("c", 0)
	_, _ = stdout.WriteString("hello\n")
	_, _ = stderr.WriteString("oops\n")
	if got := s.text("c"); got != "1hello\n2oops\n" && got != "2oops\n1hello\n" {
		t.Errorf("kept %q", got)
	}
	for _, name := range []string{keeper.PipeOut, keeper.PipeErr} {
		if exists(filepath.Join(s.dir.LogDir("c"), name)) {
			t.Errorf("%s is left", name)
		}
	}
	if err := s.dir.RemoveLog("c"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.dir.Logs()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What a container writes while no keeper reads, or while one gives way to the
// next, waits in its FIFO.
func TestOutputOutlivesKeepers(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	s.hear("agent")
	stdout, _ := s.open("c", 0)
	var want strings.Builder
	say := func(n int) {
		for range n {
			line := strconv.Itoa(want.Len()) + "\n"
			want.WriteString("1" + line)
			_, _ = stdout.WriteString(line)
		}
	}
	say(100)
	for range 5 { // SIGHUP while the container writes
		if err := os.Remove(s.dir.KeeperPID()); err != nil {
			t.Fatal(err)
		}
		_ = s.cmd.Process.Signal(syscall.SIGHUP)
		say(2000)
		s.await(string(s.dir), func() bool { return exists(s.dir.KeeperPID()) })
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	say(1000)
	s.start()
	s.hear("agent")
	say(100)
	if got := s.text("c"); got != want.String() {
		t.Errorf("%d bytes kept, want %d", len(got), want.Len())
	}
}

func TestOutputIsBounded(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	s.hear("agent")
	const limit = 64 << 10
	stdout, _ := s.open("c", limit)
	for i := range 40000 {
		fmt.Fprintln(stdout, i)
	}
	text := s.text("c")
	if !strings.HasSuffix(text, "139998\n139999\n") {
		t.Errorf("the last lines are %q", text[max(0, len(text)-40):])
	}
	var size int64
	for _, name := range []string{keeper.LogNow, keeper.LogOld} {
		info, err := os.Stat(filepath.Join(s.dir.LogDir("c"), name))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > limit || size < limit/3 {
		t.Errorf("%d bytes on disk, want at most %d and not much less", size, limit)
	}
}

// A full disk costs lines, never time: the container writes on, and how much
// was lost is told once there is room.
func TestFullDiskDropsAndCounts(t *testing.T) {
	s := newStage(t, "agent")
	if err := s.dir.Make(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("skein-test", s.dir.Logs(), "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(s.dir.Logs(), syscall.MNT_DETACH) })
	s.start()
	s.hear("agent")
	stdout, _ := s.open("c", 0)
	ballast := filepath.Join(s.dir.Logs(), ".ballast")
	_ = os.WriteFile(ballast, make([]byte, 1<<20), 0o600) // until it is full
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 1<<12)
	const chunks = 64 // 4 MiB: more than the FIFO and the disk hold
	for range chunks {
		if _, err := stdout.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	_, _ = stdout.WriteString("room again\n")
	text := s.text("c")
	if !strings.Contains(text, "2[skein: lost ") {
		t.Errorf("no word of what was lost in %d bytes", len(text))
	}
}

func TestAHundredWritersCostLittle(t *testing.T) {
	s := newStage(t, "agent")
	s.start()
	s.hear("agent")
	const containers = 100
	var files []*os.File
	for i := range containers {
		stdout, stderr := s.open(fmt.Sprintf("c%d", i), 1<<20)
		files = append(files, stdout, stderr)
	}
	line := strings.Repeat("y", 199) + "\n"
	for range 100 {
		for _, f := range files {
			if _, err := f.WriteString(strings.Repeat(line, 4)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range containers {
		if err := s.dir.EndLog(t.Context(), fmt.Sprintf("c%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kb int
			_, _ = fmt.Sscan(rest, &kb)
			t.Logf("at most %d KiB resident", kb)
			if kb > 8<<10 {
				t.Errorf("at most %d KiB resident, want 8 MiB", kb)
			}
		}
	}
	if info, err := os.Stat(binary); err != nil || info.Size() > 3<<20 {
		t.Errorf("the keeper's program: %v, %v; want 3 MiB at most", info.Size(), err)
	}
}

// Without a keeper the output of a container that has ended is closed as it is.
func TestEndLogDoesNotWaitForADeadKeeper(t *testing.T) {
	d := keeper.Dir(t.TempDir())
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	streams, err := d.OpenLog("c", keeper.LogOptions{})
	stdout, stderr := streams[1], streams[2]
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	defer stderr.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.EndLog(ctx, "c"); err != nil {
		t.Error(err)
	}
	err = d.ReadLog(t.Context(), "c", keeper.ReadOptions{Tail: -1, Follow: true}, func(keeper.Line) error { return nil })
	if err != nil {
		t.Error(err)
	}
}

func TestTheKeeperCarriesNothingHeavy(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(out)) {
		switch {
		case name == "fmt", name == "net", strings.HasPrefix(name, "encoding"), strings.HasPrefix(name, "golang.org/"):
			t.Errorf("the keeper imports %s", name)
		}
	}
}

// The older file of a container that writes little does not stay for ever.
func TestOldOutputOfAQuietContainerGoes(t *testing.T) {
	dir := t.TempDir()
	s := newSink(dir)
	defer s.close()
	old := filepath.Join(dir, keeper.LogOld)
	if err := os.WriteFile(old, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.expire(now.Add(keepOld - time.Hour))
	if _, err := os.Stat(old); err != nil {
		t.Errorf("gone before its time: %v", err)
	}
	s.expire(now.Add(keepOld + time.Hour))
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is kept: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, keeper.LogNow)); err != nil {
		t.Errorf("the newer one: %v", err)
	}
}
