package consensus

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatAfter is how long the same complaint of the library is not repeated.
const repeatAfter = time.Minute

// A bridge passes the library's log on to slog. The library reports every step
// and, while a peer is away, every attempt to reach it, so all but its errors go
// to debug, and of equal errors one a minute is a warning.
type bridge struct {
	log  *slog.Logger
	name string
	args []any
	said *complaints
}

type complaints struct {
	mu   sync.Mutex
	last map[string]time.Time
}

var _ hclog.Logger = (*bridge)(nil)

func newBridge(log *slog.Logger) *bridge {
	return &bridge{
		log:  log.With("component", "raft"),
		said: &complaints{last: make(map[string]time.Time)},
	}
}

// fresh reports whether msg has not been said for a while. The library's messages
// are a few dozen constants.
func (c *complaints) fresh(msg string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, ok := c.last[msg]; ok && time.Since(last) < repeatAfter {
		return false
	}
	c.last[msg] = time.Now()
	return true
}

// Log implements hclog.Logger.
func (b *bridge) Log(level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	if level < hclog.Debug {
		to -= 4
	}
	if level >= hclog.Error && b.said.fresh(msg) {
		to = slog.LevelWarn
	}
	ctx := context.Background() // the library has none
	if !b.log.Enabled(ctx, to) {
		return
	}
	b.log.Log(ctx, to, msg, plain(args)...)
}

// plain makes of the library's arguments what slog prints well.
func plain(args []any) []any {
	out := make([]any, len(args))
	for i, arg := range args {
		switch v := arg.(type) {
		case hclog.Format:
			format, _ := v[0].(string)
			out[i] = fmt.Sprintf(format, v[1:]...)
		case string:
			if i%2 == 0 && v == "error" {
				v = "err"
			}
			out[i] = v
		default:
			out[i] = arg
		}
	}
	return out
}

func (b *bridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b *bridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *bridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *bridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *bridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *bridge) debug() bool { return b.log.Enabled(context.Background(), slog.LevelDebug) }

func (b *bridge) IsTrace() bool { return false }
func (b *bridge) IsDebug() bool { return b.debug() }
func (b *bridge) IsInfo() bool  { return b.debug() }
func (b *bridge) IsWarn() bool  { return b.debug() }
func (b *bridge) IsError() bool { return true }

func (b *bridge) ImpliedArgs() []any { return b.args }
func (b *bridge) Name() string       { return b.name }

// With returns a logger that adds args to every record.
func (b *bridge) With(args ...any) hclog.Logger {
	with := *b
	with.log = b.log.With(plain(args)...)
	with.args = append(append([]any(nil), b.args...), args...)
	return &with
}

// Named returns a logger for a part of the library; slog gets no names.
func (b *bridge) Named(name string) hclog.Logger {
	named := *b
	named.name = name
	return &named
}

func (b *bridge) ResetNamed(name string) hclog.Logger { return b.Named(name) }
func (b *bridge) SetLevel(hclog.Level)                {}

func (b *bridge) GetLevel() hclog.Level {
	if b.debug() {
		return hclog.Debug
	}
	return hclog.Error
}

func (b *bridge) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(b.log.Handler(), slog.LevelDebug)
}

func (b *bridge) StandardWriter(opts *hclog.StandardLoggerOptions) io.Writer {
	return b.StandardLogger(opts).Writer()
}
