package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// progress shows how a change gets on: on a terminal one summary line that is
// drawn over and over, with one for each image on its way above it, below the lines
// that stay; elsewhere a line per change.
// Several waits may share one.
type progress struct {
	w       io.Writer
	live    bool
	columns func() int // of the terminal, asked for at each drawing

	mu        sync.Mutex
	summaries map[string]string
	order     []string
	last      map[string]string   // per subject, so that nothing is said twice
	coming    map[string][]string // per subject: images on their way
	pulls     map[string]bool     // by node and image: it was said to be on its way
	drawn     int                 // lines that erase takes away
}

func newProgress(w io.Writer, live bool, columns func() int) *progress {
	return &progress{
		w: w, live: live, columns: columns, summaries: map[string]string{}, last: map[string]string{},
		coming: map[string][]string{}, pulls: map[string]bool{},
	}
}

// tell shows what is new about subject. An empty line or summary says nothing.
func (p *progress) tell(subject, line, summary string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line, summary = clean(strings.TrimRight(line, "\n")), clean(summary)
	if !p.live {
		if line == "" {
			line = summary
		}
		p.print(subject, line)
		return
	}
	p.erase()
	p.print(subject, line)
	if summary != "" {
		if _, ok := p.summaries[subject]; !ok {
			p.order = append(p.order, subject)
		}
		p.summaries[subject] = summary
	}
	p.draw()
}

// done takes subject out of the summary; its last word stays as a line.
func (p *progress) done(subject, last string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.print(subject, clean(last))
	delete(p.summaries, subject)
	delete(p.coming, subject)
	p.order = slices.DeleteFunc(p.order, func(s string) bool { return s == subject })
	p.draw()
}

func (p *progress) print(subject, line string) {
	if line == "" || p.last[subject] == line {
		return
	}
	p.last[subject] = line
	if first, _, _ := strings.Cut(line, " "); !strings.Contains(first, "/") {
		line = subject + ": " + line // lines about one of its Pods name that
	}
	fmt.Fprintln(p.w, strings.ReplaceAll(line, "\n", "\n  "))
}

func (p *progress) erase() {
	for ; p.drawn > 0; p.drawn-- {
		fmt.Fprint(p.w, "\r\x1b[2K")
		if p.drawn > 1 {
			fmt.Fprint(p.w, "\x1b[1A")
		}
	}
}

func (p *progress) draw() {
	if !p.live {
		return
	}
	// One column less than there are: a full line would wrap, and \r not undo it.
	var lines []string
	for _, line := range p.below() {
		lines = append(lines, cut(line, max(20, p.columns()-1)))
	}
	parts := make([]string, len(p.order))
	for i, subject := range p.order {
		parts[i] = subject + " " + p.summaries[subject]
	}
	if len(parts) > 0 {
		lines = append(lines, cut(strings.Join(parts, " · "), max(20, p.columns()-1)))
	}
	fmt.Fprint(p.w, strings.Join(lines, "\n"))
	p.drawn = len(lines)
}
