package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A grid draws rows of cells under upper-case headers, two spaces between
// columns. It remembers how wide its columns are, so that the rows of a watch
// stay below each other; they only ever grow.
type grid struct {
	columns []string
	widths  []int
	now     func() time.Time
}

// fit makes room for the headers (when they are shown) and rows.
func (g *grid) fit(header bool, rows [][]string) {
	if header {
		rows = append([][]string{g.columns}, rows...)
	}
	for _, row := range rows {
		for i, cell := range row {
			if i == len(g.widths) {
				g.widths = append(g.widths, 0)
			}
			g.widths[i] = max(g.widths[i], width(cell))
		}
	}
}

func (g *grid) line(cells []string) string {
	var b strings.Builder
	for i, cell := range cells {
		b.WriteString(cell)
		if i < len(cells)-1 {
			pad := 0
			if i < len(g.widths) {
				pad = max(0, g.widths[i]-width(cell))
			}
			b.WriteString(strings.Repeat(" ", pad+2))
		}
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}

// write draws a whole table.
func (g *grid) write(w io.Writer, header bool, rows [][]string) error {
	g.fit(header, rows)
	var b strings.Builder
	if header {
		b.WriteString(g.line(g.columns))
	}
	for _, row := range rows {
		b.WriteString(g.line(row))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// cells readies the cells of a row for a person: times become ages.
func (g *grid) cells(row *skeinv1.TableRow) []string {
	cells := make([]string, len(row.GetCells()))
	for i, cell := range row.GetCells() {
		column := ""
		if i < len(g.columns) {
			column = g.columns[i]
		}
		cells[i] = humanise(column, clean(cell), g.now())
	}
	return cells
}

// humanise shows a time, sent as RFC 3339, as how long ago it was, or in the
// column EXPIRES as how long it is still to come. Other cells stay.
func humanise(column, cell string, now time.Time) string {
	at, err := time.Parse(time.RFC3339, cell)
	if err != nil {
		return cell
	}
	if strings.EqualFold(column, "EXPIRES") {
		if !at.After(now) {
			return "expired"
		}
		return age(at.Sub(now))
	}
	return age(now.Sub(at))
}

// age is a duration in at most two units, coarser the longer it is, as kubectl
// writes it. Clocks differ: less than nothing is 0s.
func age(d time.Duration) string {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	two := func(unit time.Duration, name string, sub time.Duration, subName string) string {
		if rest := d % unit / sub; rest > 0 {
			return fmt.Sprintf("%d%s%d%s", d/unit, name, rest, subName)
		}
		return fmt.Sprintf("%d%s", d/unit, name)
	}
	switch {
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute:
		return two(time.Minute, "m", time.Second, "s")
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 8*time.Hour:
		return two(time.Hour, "h", time.Minute, "m")
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d < 8*day:
		return two(day, "d", time.Hour, "h")
	case d < 2*year:
		return fmt.Sprintf("%dd", d/day)
	case d < 8*year:
		return two(year, "y", day, "d")
	default:
		return fmt.Sprintf("%dy", d/year)
	}
}
