package image

import (
	"io"
	"log/slog"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// Bridge gives containerd's packages, which log by logrus, the way to slog.
// What they call an error has reached the caller too, so nothing of theirs is
// told louder than as a warning.
//
// Where they have no context to take it from they write to logrus' own logger,
// which would be standard error: nothing so far but that a file system has no
// fsverity.
func Bridge(to *slog.Logger) *log.Entry {
	logrus.SetOutput(io.Discard)
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.DebugLevel)
	l.AddHook(hook{to})
	return logrus.NewEntry(l)
}

type hook struct{ to *slog.Logger }

func (hook) Levels() []logrus.Level { return logrus.AllLevels }

func (h hook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	if e.Level <= logrus.WarnLevel {
		level = slog.LevelWarn
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for k, v := range e.Data {
		if k == logrus.ErrorKey {
			k = "err"
		}
		attrs = append(attrs, slog.Any(k, v))
	}
	h.to.LogAttrs(e.Context, level, e.Message, attrs...)
	return nil
}
