package keeper

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func newDir(t *testing.T) Dir {
	t.Helper()
	d := Dir(t.TempDir())
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestExitSurvivesDisk(t *testing.T) {
	d := newDir(t)
	want := Exit{PID: 42, Start: 1234567, Status: 3 << 8, Time: time.Unix(1700000000, 5)}
	if err := d.WriteExit(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.ReadExit(42, 1234567)
	if err != nil || got != want {
		t.Errorf("ReadExit = %+v, %v; want %+v", got, err, want)
	}
	if got.Code() != 3 || got.Signal() != 0 {
		t.Errorf("code %d, signal %d; want 3, 0", got.Code(), got.Signal())
	}
	if _, err := d.ReadExit(42, 1234568); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the exit of another process with that pid: %v, want not there", err)
	}
	if got, err := d.FindExit(42, 1234560); err != nil || got != want {
		t.Errorf("FindExit = %+v, %v", got, err)
	}
	if _, err := d.FindExit(42, 1234568); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("FindExit of a later one: %v", err)
	}
	if err := errors.Join(d.RemoveExit(42, 1234567), d.RemoveExit(42, 1234567)); err != nil {
		t.Errorf("remove twice: %v", err)
	}
	if list, err := d.ListExits(); err != nil || len(list) != 0 {
		t.Errorf("after removal: %v, %v", list, err)
	}
}

func TestExitAfterSignal(t *testing.T) {
	e := Exit{Status: syscall.WaitStatus(syscall.SIGKILL)}
	if e.Code() != 137 || e.Signal() != 9 {
		t.Errorf("code %d, signal %d; want 137, 9", e.Code(), e.Signal())
	}
}

func FuzzParseExit(f *testing.F) {
	f.Add("42-17", "256 1700000000000000000\n")
	f.Add("42", "")
	f.Add("-", "a b c")
	f.Fuzz(func(t *testing.T, name, text string) {
		e, err := parseExit(name, text)
		if err == nil && (e.Code() < 0 && !e.Status.Stopped() && !e.Status.Continued()) && e.Status.Exited() {
			t.Errorf("exited with a negative code: %+v", e)
		}
	})
}

func TestStatReadsAnyName(t *testing.T) {
	dir := t.TempDir()
	odd := dir + "/a) S 1 (b"
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(sleep, odd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), odd, "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Find(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Stat()
	if err != nil || s.Parent != os.Getpid() || s.Start == 0 || s.Start != p.Start {
		t.Errorf("Stat = %+v, %v; want a child of %d", s, err, os.Getpid())
	}
	other := p
	other.Start++
	if _, err := other.Stat(); !errors.Is(err, ErrNoProcess) {
		t.Errorf("one that started later with that pid: %v", err)
	}
	other = p
	other.Boot = "another"
	if _, err := other.Stat(); !errors.Is(err, ErrNoProcess) {
		t.Errorf("one of another boot: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := p.Stat(); !errors.Is(err, ErrNoProcess) {
		t.Errorf("after its end: %v", err)
	}
}

func TestHeaderIsReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Header{
			Stream: rapid.SampledFrom([]byte{Stdout, Stderr, Lost}).Draw(t, "stream"),
			Len:    rapid.IntRange(0, MaxFrame).Draw(t, "len"),
			Time:   rapid.Int64Min(0).Draw(t, "time"),
		}
		var b [HeaderLen]byte
		want.Put(b[:])
		got, ok := parseHeader(b[:])
		if !ok {
			t.Fatalf("%+v was not read", want)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// Whatever the frames, the lines put together are what was written.
func TestLinesHoldAllThatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want, got [2]strings.Builder
		a := newAssembler(func(l Line) error {
			if len(l.Text) > MaxLine {
				t.Fatalf("a line of %d bytes", len(l.Text))
			}
			got[l.Stream-1].Write(l.Text)
			if !l.Partial {
				got[l.Stream-1].WriteByte('\n')
			}
			return nil
		})
		for range rapid.IntRange(0, 20).Draw(t, "frames") {
			stream := rapid.SampledFrom([]byte{Stdout, Stderr}).Draw(t, "stream")
			var text string
			for range rapid.IntRange(0, 4).Draw(t, "pieces") {
				text += strings.Repeat("x", rapid.SampledFrom([]int{0, 1, 80, MaxLine - 1, MaxLine, MaxLine + 1}).Draw(t, "run"))
				text += rapid.SampledFrom([]string{"", "\n", "\n\n"}).Draw(t, "end")
			}
			want[stream-1].WriteString(text)
			if err := a.add(stream, time.Time{}, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range want {
			want[i].WriteString("\n") // so that nothing is left for flush to guess
			if err := a.add(byte(i+1), time.Time{}, []byte("\n")); err != nil {
				t.Fatal(err)
			}
			if want[i].String() != got[i].String() {
				t.Fatalf("stream %d: %d bytes in, %d out", i+1, want[i].Len(), got[i].Len())
			}
		}
	})
}
