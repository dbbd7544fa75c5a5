package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// merged prints the lines of many containers.
type merged struct {
	session *session
	w       *bufio.Writer
	times   bool
	colour  bool
	label   logLabel
	pods    map[string]*source
	lines   map[string]*line // by pod and container
	open    string           // whose line, too long to be held, was printed in part
}

// source is a Pod as it is shown.
type source struct {
	colour    int
	container string // the first one seen
	several   bool
}

// line is one being put together, and what was printed last. Lines that were
// written at once bear the same time, so messages of one time are counted.
type line struct {
	text []byte
	at   int64 // unix nanoseconds of the last message
	same int   // messages of that time
	done stamp // the last message of the last line that was printed
	skip stamp // what to drop after a resume
}

// stamp is a place in a container's output: the messages up to a time, and so
// many of that time itself.
type stamp struct {
	at   int64
	same int
}

// drop says whether a message was printed before the stream broke.
func (l *line) drop(at int64) bool {
	switch {
	case l.skip.at == 0 || at == 0:
		return false
	case at < l.skip.at:
		return true
	case at == l.skip.at && l.skip.same > 0:
		l.skip.same--
		return true
	default:
		l.skip = stamp{}
		return false
	}
}

// longest bounds what is held of a line that does not end, in bytes.
const longest = 1 << 20

// follow prints the stream. One that is followed is resumed when it breaks,
// from the last line of each container on.
func (m *merged) follow(ctx context.Context, cluster *cluster, request *skeinv1.LogsRequest) error {
	read := func(ctx context.Context, alive func()) error {
		stream, err := cluster.Logs(ctx, request)
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }() // what matters was said by Receive
		for {
			message, err := stream.Receive()
			if err != nil {
				return errors.Join(m.w.Flush(), err)
			}
			alive()
			for _, one := range append(message.GetBatch(), alone(message)...) {
				if err := m.take(one); err != nil {
					return err
				}
			}
			if err := m.w.Flush(); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
	}
	if !request.GetFollow() {
		if err := read(ctx, func() {}); err != nil && !onlyEOF(err) {
			return enough(err)
		}
		return enough(m.finish())
	}
	err := m.session.keep(ctx, func(ctx context.Context, alive func()) error {
		err := read(ctx, alive)
		if onlyEOF(err) || errors.Is(err, errEnough) {
			return errEnded
		}
		m.resume(request)
		return err
	})
	if errors.Is(err, errEnded) {
		err = nil
	}
	return errors.Join(enough(m.finish()), err)
}

// A limited writer takes so many bytes, and then fails with errEnough.
type limited struct {
	w    io.Writer
	left int64
}

var errEnough = errors.New("that was as much as was asked for")

func (l *limited) Write(b []byte) (int, error) {
	n, err := l.w.Write(b[:min(int64(len(b)), l.left)])
	l.left -= int64(n)
	if err == nil && n < len(b) {
		err = errEnough
	}
	return n, err
}

func enough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

var errEnded = errors.New("all containers have ended")

func onlyEOF(err error) bool {
	var gone *unreachableError
	return errors.Is(err, io.EOF) && !errors.As(err, &gone)
}

// resume asks for what came after the oldest line that ended a container's part.
// Lines that were printed already are dropped by their time.
func (m *merged) resume(request *skeinv1.LogsRequest) {
	oldest := int64(0)
	for _, l := range m.lines {
		l.text = nil
		l.at, l.same, l.skip = l.done.at, l.done.same, l.done
		if l.done.at > 0 && (oldest == 0 || l.done.at < oldest) {
			oldest = l.done.at
		}
	}
	if oldest > 0 {
		const slack = time.Minute // the clocks of that node and of this machine
		request.SinceMs = max(slack, m.session.now().Sub(time.Unix(0, oldest))+slack).Milliseconds()
		request.TailLines = -1
	}
}

func (m *merged) take(message *skeinv1.LogsResponse) error {
	if notice := message.GetNotice(); notice != "" {
		if err := m.w.Flush(); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		fmt.Fprintf(m.session.stderr, "note: %s\n", clean(notice))
		return nil
	}
	key := message.GetPod() + "/" + message.GetContainer()
	l := m.lines[key]
	if l == nil {
		l = &line{}
		m.lines[key] = l
	}
	if l.drop(message.GetTimeUnixNano()) {
		return nil
	}
	if message.GetTimeUnixNano() != l.at {
		l.at, l.same = message.GetTimeUnixNano(), 0
	}
	l.same++
	l.text = append(l.text, message.GetLine()...)
	if message.GetPartial() && len(l.text) < longest {
		return nil
	}
	m.print(message, l.text, message.GetPartial())
	l.text, l.done = l.text[:0], stamp{at: l.at, same: l.same}
	return nil
}

// alone is a message that holds no others.
func alone(message *skeinv1.LogsResponse) []*skeinv1.LogsResponse {
	if len(message.GetBatch()) > 0 {
		return nil
	}
	return []*skeinv1.LogsResponse{message}
}

// finish prints lines that never ended.
func (m *merged) finish() error {
	for key, l := range m.lines {
		if len(l.text) > 0 {
			pod, container, _ := strings.Cut(key, "/")
			m.print(&skeinv1.LogsResponse{Pod: pod, Container: container}, l.text, false)
		}
	}
	m.endLine()
	if err := m.w.Flush(); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// palette are the colours of Pods, by turns: those readable on dark and light.
var palette = []int{36, 33, 32, 35, 34, 96, 93, 92, 95, 94}

// endLine ends a line that was printed in part.
func (m *merged) endLine() {
	if m.open != "" {
		_ = m.w.WriteByte('\n') // told by Flush
		m.open = ""
	}
}

// print prints a line, or with more the beginning of one. A piece that follows
// its beginning goes on where that ended, unless another has written meanwhile.
func (m *merged) print(message *skeinv1.LogsResponse, text []byte, more bool) {
	key := message.GetPod() + "/" + message.GetContainer()
	if m.open != key {
		m.endLine()
		m.head(message)
	}
	_, _ = m.w.Write(text)
	if m.open = key; !more {
		m.endLine()
	}
}

// head prints what stands in front of a line.
func (m *merged) head(message *skeinv1.LogsResponse) {
	pod := m.pods[message.GetPod()]
	if pod == nil {
		pod = &source{colour: palette[len(m.pods)%len(palette)], container: message.GetContainer()}
		m.pods[message.GetPod()] = pod
	}
	pod.several = pod.several || pod.container != message.GetContainer()
	label := ""
	switch {
	case m.label == labelNever:
	case m.label == labelContainer:
		label = message.GetContainer()
	case m.label == labelWhenSeveral && len(m.pods) < 2 && !pod.several:
	case pod.several:
		label = message.GetPod() + "/" + message.GetContainer()
	default:
		label = message.GetPod()
	}
	if label != "" {
		label = clean(label) + " | "
		if m.colour {
			label = fmt.Sprintf("\x1b[%dm%s\x1b[0m", pod.colour, label)
		}
		_, _ = m.w.WriteString(label)
	}
	if m.times && message.GetTimeUnixNano() != 0 {
		_, _ = m.w.WriteString(time.Unix(0, message.GetTimeUnixNano()).UTC().Format("2006-01-02T15:04:05.000Z") + " ")
	}
}
