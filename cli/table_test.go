package cli

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"pgregory.net/rapid"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func TestAge(t *testing.T) {
	for want, d := range map[string]time.Duration{
		"0s":    -time.Minute,
		"5s":    5*time.Second + 900*time.Millisecond,
		"119s":  119 * time.Second,
		"2m":    2 * time.Minute,
		"3m12s": 192 * time.Second,
		"10m":   10*time.Minute + 59*time.Second,
		"179m":  179 * time.Minute,
		"3h":    3 * time.Hour,
		"7h59m": 7*time.Hour + 59*time.Minute,
		"47h":   47*time.Hour + 59*time.Minute,
		"2d":    48 * time.Hour,
		"7d23h": 8*24*time.Hour - time.Second,
		"729d":  729 * 24 * time.Hour,
		"2y1d":  731 * 24 * time.Hour,
		"9y":    9 * 366 * 24 * time.Hour,
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestHumaniseTouchesTimesAlone(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct{ column, cell, want string }{
		{"AGE", "2026-05-01T11:56:48Z", "3m12s"},
		{"LAST SEEN", "2026-05-01T13:59:55+02:00", "5s"},
		{"AGE", "2026-05-01T12:00:09Z", "0s"}, // that node's clock is ahead
		{"EXPIRES", "2026-05-03T12:00:00Z", "2d"},
		{"EXPIRES", "2026-05-01T12:00:00Z", "expired"},
		{"AGE", "<unknown>", "<unknown>"},
		{"NAME", "2026", "2026"},
	} {
		if got := humanise(tt.column, tt.cell, now); got != tt.want {
			t.Errorf("humanise(%s, %s) = %q, want %q", tt.column, tt.cell, got, tt.want)
		}
	}
}

func TestGridAlignsWhatATerminalShows(t *testing.T) {
	g := &grid{columns: []string{"NAME", "STATUS", "NOTE"}, now: time.Now}
	var b strings.Builder
	if err := g.write(&b, true, [][]string{{"web", "Running", "x"}, {"日本", "é", ""}, {"🦢", "Pending", "y"}}); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"NAME  STATUS   NOTE\n" +
		"web   Running  x\n" +
		"日本  é\n" +
		"🦢    Pending  y\n"
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
	b.Reset()
	if err := g.write(&b, false, [][]string{{"w", "OK", "z"}}); err != nil { // later rows keep the columns
		t.Fatal(err)
	}
	if want := "w     OK       z\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

func TestCellsCannotMoveTheCursor(t *testing.T) {
	g := &grid{columns: []string{"NAME"}, now: time.Now}
	got := g.cells(&skeinv1.TableRow{Cells: []string{"a\x1b[2Jb\x07\u009bc\r"}})
	if want := "a[2Jbc"; got[0] != want {
		t.Errorf("cell = %q, want %q", got[0], want)
	}
}

func TestColumnsStartAtTheSamePlaceInEveryRow(t *testing.T) {
	left, right := rapid.StringMatching(`[a-z日é🦢]{0,6}`), rapid.StringMatching(`[A-Z]{1,6}`)
	rapid.Check(t, func(t *rapid.T) {
		var rows [][]string
		for range rapid.IntRange(1, 5).Draw(t, "rows") {
			rows = append(rows, []string{left.Draw(t, "left"), right.Draw(t, "right")})
		}
		g := &grid{columns: []string{"a", "B"}, now: time.Now}
		var b strings.Builder
		if err := g.write(&b, true, rows); err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
			begin := strings.IndexFunc(line, unicode.IsUpper)
			if at := width(line[:begin]); at != g.widths[0]+2 {
				t.Errorf("line %d: second column begins at %d, want %d:\n%s", i, at, g.widths[0]+2, b.String())
			}
		}
	})
}

func TestCutFitsTheTerminal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-z日🦢é ]{0,30}`).Draw(t, "text")
		columns := rapid.IntRange(2, 20).Draw(t, "columns")
		got := cut(text, columns)
		if width(got) > columns {
			t.Errorf("cut(%q, %d) = %q, %d wide", text, columns, got, width(got))
		}
		if width(text) <= columns && got != text {
			t.Errorf("cut(%q, %d) = %q, want all of it", text, columns, got)
		}
	})
}
