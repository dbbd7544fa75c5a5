package agenttest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A trace is what happened, in order, with the virtual time since the start:
// faults, what users did, and what the agents logged.
type trace struct {
	mu    sync.Mutex
	begun time.Time
	text  bytes.Buffer

	suspected int                 // how often a leader has told that a node is suspect
	leaders   map[uint64][]string // who has told that it leads, by term
}

func newTrace() *trace { return &trace{begun: time.Now(), leaders: map[uint64][]string{}} }

// note counts what the checks ask for: what may be over before they look.
func (t *trace) note(who string, r slog.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch r.Message {
	case "node suspect":
		t.suspected++
	case "leading":
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "term" && !slices.Contains(t.leaders[a.Value.Uint64()], who) {
				t.leaders[a.Value.Uint64()] = append(t.leaders[a.Value.Uint64()], who)
			}
			return true
		})
	}
}

// suspicions counts how often a node has become suspect.
func (t *trace) suspicions() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.suspected
}

// rivals names those who lead or led in one term, if there is such a term.
func (t *trace) rivals() (term uint64, who []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for term, who := range t.leaders {
		if len(who) > 1 {
			return term, who
		}
	}
	return 0, nil
}

func (t *trace) add(who, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(&t.text, "%10.3f %-8s ", time.Since(t.begun).Seconds(), who)
	fmt.Fprintf(&t.text, format+"\n", args...)
}

// goroutines adds what every goroutine of the process is at.
func (t *trace) goroutines() {
	stacks := make([]byte, 16<<20)
	t.add("STACKS", "%s", stacks[:runtime.Stack(stacks, true)])
}

// String is all of it.
func (t *trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// save writes it to a file.
func (t *trace) save(path string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return os.WriteFile(path, t.text.Bytes(), 0o600)
}

// handler keeps what an agent logs, from info on.
func (t *trace) handler(who string) slog.Handler { return logger{trace: t, who: who} }

type logger struct {
	trace *trace
	who   string
	attrs []slog.Attr
}

func (l logger) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l logger) Handle(_ context.Context, r slog.Record) error {
	var text bytes.Buffer
	text.WriteString(r.Level.String()[:1] + " " + r.Message)
	for _, a := range l.attrs {
		fmt.Fprintf(&text, " %s=%v", a.Key, a.Value)
	}
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&text, " %s=%v", a.Key, a.Value)
		return true
	})
	l.trace.note(l.who, r)
	l.trace.add(l.who, "%s", text.String())
	return nil
}

func (l logger) WithAttrs(attrs []slog.Attr) slog.Handler {
	l.attrs = append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)
	return l
}

func (l logger) WithGroup(string) slog.Handler { return l }
