package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A page is the file of one container's output, as a keeper writes it.
type page struct {
	t   *testing.T
	dir string
}

func newPage(t *testing.T, d Dir, id string) page {
	t.Helper()
	dir := d.LogDir(id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return page{t, dir}
}

func frame(stream byte, at int64, text string) []byte {
	var head [HeaderLen]byte
	Header{Stream: stream, Len: len(text), Time: at * int64(time.Second)}.Put(head[:])
	return append(head[:], text...)
}

func (p page) add(data ...[]byte) {
	p.t.Helper()
	f, err := os.OpenFile(filepath.Join(p.dir, LogNow), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	for _, d := range data {
		if _, err := f.Write(d); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p page) rotate() {
	p.t.Helper()
	if err := os.Rename(filepath.Join(p.dir, LogNow), filepath.Join(p.dir, LogOld)); err != nil {
		p.t.Fatal(err)
	}
}

func (p page) end() {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, ClosedAt), nil, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func show(l Line) string {
	mark := ""
	if l.Partial {
		mark = "…"
	}
	return fmt.Sprintf("%d %d %s%s", l.Time.Unix(), l.Stream, l.Text, mark)
}

func TestReadLog(t *testing.T) {
	tests := map[string]struct {
		write func(p page)
		opt   ReadOptions
		want  []string
	}{
		"nothing yet": {write: func(page) {}, opt: ReadOptions{Tail: -1}},
		"both streams in the order they were read": {
			write: func(p page) { p.add(frame(1, 1, "a\nb\n"), frame(2, 2, "oops\n"), frame(1, 3, "c\n")) },
			opt:   ReadOptions{Tail: -1}, want: []string{"1 1 a", "1 1 b", "2 2 oops", "3 1 c"},
		},
		"a line over frames has the time of its first byte": {
			write: func(p page) { p.add(frame(1, 1, "hel"), frame(2, 2, "x\n"), frame(1, 3, "lo\n")) },
			opt:   ReadOptions{Tail: -1}, want: []string{"2 2 x", "1 1 hello"},
		},
		"what has no newline yet is partial": {
			write: func(p page) { p.add(frame(1, 1, "a\nprompt> ")) },
			opt:   ReadOptions{Tail: -1}, want: []string{"1 1 a", "1 1 prompt> …"},
		},
		"the end of a closed output is no part": {
			write: func(p page) { p.add(frame(1, 1, "bye")); p.end() },
			opt:   ReadOptions{Tail: -1}, want: []string{"1 1 bye"},
		},
		"the older file comes first": {
			write: func(p page) { p.add(frame(1, 1, "old\nhal")); p.rotate(); p.add(frame(1, 2, "f\nnew\n")) },
			opt:   ReadOptions{Tail: -1}, want: []string{"1 1 old", "1 1 half", "2 1 new"},
		},
		"tail": {
			write: func(p page) { p.add(frame(1, 1, "1\n2\n")); p.rotate(); p.add(frame(1, 2, "3\n4\n")) },
			opt:   ReadOptions{Tail: 3}, want: []string{"1 1 2", "2 1 3", "2 1 4"},
		},
		"tail of more than there is": {
			write: func(p page) { p.add(frame(1, 1, "1\n")) }, opt: ReadOptions{Tail: 5}, want: []string{"1 1 1"},
		},
		"tail of nothing": {write: func(p page) { p.add(frame(1, 1, "1\n")) }, opt: ReadOptions{Tail: 0}},
		"since": {
			write: func(p page) { p.add(frame(1, 1, "1\n"), frame(1, 2, "2\n"), frame(1, 3, "3\n")) },
			opt:   ReadOptions{Tail: -1, Since: time.Unix(2, 0)}, want: []string{"2 1 2", "3 1 3"},
		},
		"since and tail": {
			write: func(p page) { p.add(frame(1, 1, "1\n"), frame(1, 2, "2\n"), frame(1, 3, "3\n")) },
			opt:   ReadOptions{Tail: 1, Since: time.Unix(2, 0)}, want: []string{"3 1 3"},
		},
		"a frame cut short by a loss of power is passed over": {
			write: func(p page) { p.add(frame(1, 1, "1\n"), frame(1, 2, "torn apart\n")[:20], frame(1, 3, "3\n")) },
			opt:   ReadOptions{Tail: -1}, want: []string{"1 1 1", "3 1 3"},
		},
		"so are zeroes": {
			write: func(p page) { p.add(frame(1, 1, "1\n"), make([]byte, 5000), frame(1, 3, "3\n")) },
			opt:   ReadOptions{Tail: -1}, want: []string{"1 1 1", "3 1 3"},
		},
		"what was lost is told": {
			write: func(p page) { p.add(frame(1, 1, "1\n"), frame(Lost, 2, "77"), frame(1, 3, "3\n")) },
			opt:   ReadOptions{Tail: -1},
			want:  []string{"1 1 1", "2 2 [skein: lost 77 bytes of output that could not be written]", "3 1 3"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			tt.write(newPage(t, d, "c"))
			var got []string
			if err := d.ReadLog(t.Context(), "c", tt.opt, func(l Line) error { got = append(got, show(l)); return nil }); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadLogFollowsThroughRotations(t *testing.T) {
	d := newDir(t)
	p := newPage(t, d, "c")
	p.add(frame(1, 1, "0\n"))
	n := 0
	err := d.ReadLog(t.Context(), "c", ReadOptions{Tail: -1, Follow: true}, func(l Line) error {
		if got, want := string(l.Text), fmt.Sprint(n); got != want {
			t.Errorf("line %q, want %q", got, want)
		}
		if n++; n > 200 {
			return nil
		}
		// The next line comes only now, and every third time into a new file.
		if n%3 == 0 {
			p.rotate()
		}
		if n == 200 {
			p.add(frame(1, 2, "200\n"))
			p.end()
			return nil
		}
		p.add(frame(1, 2, fmt.Sprintf("%d\n", n)))
		return nil
	})
	if err != nil || n != 201 {
		t.Errorf("read %d lines, %v; want 201", n, err)
	}
}

func TestReadLogEnds(t *testing.T) {
	t.Run("with the error of the caller", func(t *testing.T) {
		d := newDir(t)
		newPage(t, d, "c").add(frame(1, 1, "1\n2\n"))
		want := errors.New("enough")
		if err := d.ReadLog(t.Context(), "c", ReadOptions{Tail: -1}, func(Line) error { return want }); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	})
	t.Run("with its context while following", func(t *testing.T) {
		d := newDir(t)
		newPage(t, d, "c").add(frame(1, 1, "1\n"))
		ctx, cancel := context.WithCancel(t.Context())
		err := d.ReadLog(ctx, "c", ReadOptions{Tail: -1, Follow: true}, func(Line) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
	})
	t.Run("when the output is removed", func(t *testing.T) {
		d := newDir(t)
		newPage(t, d, "c").add(frame(1, 1, "1\n"))
		err := d.ReadLog(t.Context(), "c", ReadOptions{Tail: -1, Follow: true}, func(Line) error { return d.RemoveLog("c") })
		if err != nil {
			t.Error(err)
		}
	})
}

func FuzzCursor(f *testing.F) {
	f.Add([]byte{}, 0)
	f.Add(append(frame(1, 1, "hello\n"), frame(2, 2, "x")...), 7)
	f.Add([]byte(strings.Repeat("\xf5sk", 40)), 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		path := filepath.Join(t.TempDir(), "log")
		good := frame(1, 9, "the last line stands\n")
		if cut >= 0 && cut < len(data) {
			data = data[:cut]
		}
		if err := os.WriteFile(path, append(data, good...), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		c, last := cursor{file: file}, ""
		for {
			_, text, err := c.next()
			if err != nil {
				break
			}
			last = string(text)
		}
		// Bytes that look like the head of a frame longer than the file may hide it.
		if !strings.Contains(string(data), "\xf5sk") && last != "the last line stands\n" {
			t.Errorf("the frame behind %q was not found", data)
		}
	})
}
