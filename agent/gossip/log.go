package gossip

import (
	"bytes"
	"log"
	"log/slog"
)

// bridge makes memberlist's logger one of ours. What memberlist calls an error
// heals by itself or is somebody else's fault, so nothing is above Warn.
func bridge(to *slog.Logger) *log.Logger { return log.New(bridged{to}, "", 0) }

type bridged struct{ to *slog.Logger }

// Write takes in one line of memberlist: "[LEVEL] memberlist: text".
func (b bridged) Write(line []byte) (int, error) {
	text := bytes.TrimSpace(line)
	say := b.to.Debug
	if bytes.HasPrefix(text, []byte("[ERR]")) && !bytes.Contains(text, []byte("Push/Pull with")) {
		say = b.to.Warn
	}
	if _, after, ok := bytes.Cut(text, []byte("memberlist: ")); ok {
		text = after
	}
	say("memberlist says", "text", string(text))
	return len(line), nil
}
