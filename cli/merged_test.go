package cli

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A line without an end arrives whole, and is not held.
func TestALineOfAHundredMegabytesArrivesWhole(t *testing.T) {
	var out bytes.Buffer
	m := &merged{session: &session{}, w: bufio.NewWriter(&out), pods: map[string]*source{}, lines: map[string]*line{}}
	piece := bytes.Repeat([]byte("0123456789abcde\x00"), 1<<10)
	const pieces = 100 << 20 / (16 << 10)
	for i := range pieces {
		if err := m.take(&skeinv1.LogsResponse{Pod: "p", Container: "c", TimeUnixNano: int64(i + 1), Line: piece, Partial: true}); err != nil {
			t.Fatal(err)
		}
		if held := cap(m.lines["p/c"].text); held > 4*longest {
			t.Fatalf("%d bytes are held after %d pieces", held, i)
		}
	}
	if err := m.finish(); err != nil {
		t.Fatal(err)
	}
	if got, want := out.Len(), pieces*len(piece)+1; got != want || bytes.Count(out.Bytes(), []byte("\n")) != 1 {
		t.Errorf("%d bytes in %d lines, want %d in one", got, bytes.Count(out.Bytes(), []byte("\n")), want)
	}
}

// Another's line does not end up in the middle of a long one.
func TestALongLineIsBrokenOnlyForAnother(t *testing.T) {
	var out bytes.Buffer
	m := &merged{session: &session{}, w: bufio.NewWriter(&out), pods: map[string]*source{}, lines: map[string]*line{}, label: labelPod}
	long := []byte(strings.Repeat("x", longest))
	say := func(pod string, at int64, text []byte, more bool) {
		t.Helper()
		if err := m.take(&skeinv1.LogsResponse{Pod: pod, Container: "c", TimeUnixNano: at, Line: text, Partial: more}); err != nil {
			t.Fatal(err)
		}
	}
	say("a", 1, long, true)
	say("a", 2, long, true)
	say("b", 3, []byte("hello"), false)
	say("a", 4, []byte("end"), false)
	if err := m.w.Flush(); err != nil {
		t.Fatal(err)
	}
	want := "a | " + string(long) + string(long) + "\nb | hello\na | end\n"
	if out.String() != want {
		t.Errorf("printed %d bytes, want %d", out.Len(), len(want))
	}
}
