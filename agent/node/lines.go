package node

import (
	"cmp"
	"context"
	"sync"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A lineQueue collects the lines of a Pod's containers between those who read
// them and the one that sends them, so that many go in one message: a message a
// line costs more than all else. Readers wait while it is full, and with that
// leave the output where it is, in the keeper's files.
type lineQueue struct {
	mu      sync.Mutex
	moved   sync.Cond
	lines   []*skeinv1.LogsResponse
	bytes   int
	readers int
	closed  bool
	err     error
}

const (
	maxQueued  = 512 << 10             // bytes
	lineCost   = 64                    // bytes, of a line besides its text
	gatherTime = 10 * time.Millisecond // while lines come one after the other
	gatherIdle = 50 * time.Millisecond // what comes after such a silence goes at once
)

func newLineQueue() *lineQueue {
	q := &lineQueue{}
	q.moved.L = &q.mu
	return q
}

// put adds a line, or says that nobody wants it any more.
func (q *lineQueue) put(l *skeinv1.LogsResponse) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.bytes >= maxQueued && !q.closed {
		q.moved.Wait()
	}
	if q.closed {
		return false
	}
	if len(q.lines) == 0 {
		q.moved.Broadcast()
	}
	q.lines = append(q.lines, l)
	q.bytes += len(l.GetLine()) + lineCost
	return true
}

// end says that a reader has ended.
func (q *lineQueue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.readers--
	q.err = cmp.Or(q.err, err)
	q.moved.Broadcast()
}

// close lets go of readers that wait.
func (q *lineQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.moved.Broadcast()
}

// take waits for lines and takes all there are; none once all readers have
// ended, or the queue was closed and they have.
func (q *lineQueue) take() []*skeinv1.LogsResponse {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lines) == 0 && q.readers > 0 {
		q.moved.Wait()
	}
	out := q.lines
	q.lines, q.bytes = nil, 0
	q.moved.Broadcast()
	return out
}

// send sends what is put until all readers have ended, and returns the first
// error. When send fails it calls cancel, and waits for the readers.
func (q *lineQueue) send(ctx context.Context, cancel context.CancelFunc, batches bool, send func(*skeinv1.LogsResponse) error) error {
	var failed error
	var last time.Time
	for {
		if batches && time.Since(last) < gatherIdle {
			rest(ctx, gatherTime)
		}
		lines := q.take()
		last = time.Now()
		if len(lines) == 0 {
			return cmp.Or(failed, q.err)
		}
		for len(lines) > 0 && failed == nil {
			n := 1
			if batches {
				n = len(lines)
			}
			msg := lines[0]
			if n > 1 {
				msg = &skeinv1.LogsResponse{Batch: lines[:n]}
			}
			if failed = send(msg); failed != nil {
				cancel()
			}
			lines = lines[n:]
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
