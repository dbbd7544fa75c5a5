package object

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A page is text in blocks of "key: value", indented below titles, with the
// values of one block under each other.
type page struct {
	out    strings.Builder
	indent int
	block  [][2]string // waits for its widest key
}

// String returns the page so far.
func (p *page) String() string {
	p.flush()
	return p.out.String()
}

// put adds a line to the block.
func (p *page) put(key, value string) {
	p.block = append(p.block, [2]string{key + ":", value})
}

// many adds a key with several values, one a line.
func (p *page) many(key string, values []string) {
	if len(values) == 0 {
		p.put(key, none)
		return
	}
	p.put(key, values[0])
	for _, v := range values[1:] {
		p.block = append(p.block, [2]string{"", v})
	}
}

// title begins a block inside, which end closes.
func (p *page) title(text string) {
	p.flush()
	p.raw(text + ":")
	p.indent += 2
}

func (p *page) end() {
	p.flush()
	p.indent -= 2
}

func (p *page) line(format string, args ...any) {
	p.flush()
	p.raw(fmt.Sprintf(format, args...))
}

func (p *page) raw(text string) {
	p.out.WriteString(strings.Repeat(" ", p.indent) + strings.TrimRight(text, " ") + "\n")
}

func (p *page) flush() {
	rows := make([][]string, len(p.block))
	for i, b := range p.block {
		rows[i] = b[:]
	}
	p.block = nil
	p.table(rows)
}

// table writes cells under each other, two spaces between them.
func (p *page) table(rows [][]string) {
	if len(p.block) > 0 {
		p.flush()
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		p.raw(b.String())
	}
}
