package node

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func TestLinesComeInOrderAndMoreAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newLineQueue()
		q.readers = 1
		go func() {
			for i := range int64(1000) {
				q.put(&skeinv1.LogsResponse{TimeUnixNano: i})
				time.Sleep(time.Millisecond)
			}
			q.end(nil)
		}()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		next, messages := int64(0), 0
		err := q.send(ctx, cancel, true, func(m *skeinv1.LogsResponse) error {
			messages++
			for _, l := range append(m.GetBatch(), m) {
				if len(l.GetBatch()) > 0 {
					continue
				}
				if l.GetTimeUnixNano() != next {
					t.Errorf("line %d, want %d", l.GetTimeUnixNano(), next)
				}
				next++
			}
			return nil
		})
		if err != nil || next != 1000 || messages > 200 {
			t.Errorf("%d lines in %d messages, %v", next, messages, err)
		}
	})
}

// Who reads slowly holds up the readers, not what they may fill; who goes away
// lets them go.
func TestASlowClientHoldsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newLineQueue()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stop := context.AfterFunc(ctx, q.close)
		defer stop()
		var wait sync.WaitGroup
		for range 3 {
			q.readers++
			wait.Go(func() {
				line := &skeinv1.LogsResponse{Line: make([]byte, 16<<10)}
				for q.put(line) {
					continue
				}
				q.end(context.Canceled)
			})
		}
		gone := errors.New("gone")
		err := q.send(ctx, cancel, true, func(*skeinv1.LogsResponse) error {
			synctest.Wait()
			q.mu.Lock()
			held := q.bytes
			q.mu.Unlock()
			if held > maxQueued+64<<10 {
				t.Errorf("%d bytes are held", held)
			}
			return gone
		})
		if !errors.Is(err, gone) {
			t.Errorf("ended with %v", err)
		}
		wait.Wait()
	})
}
