package api

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// bodyPatience is how long a call may keep its handler waiting for its body, all
// waits together: 4 MiB in it are 140 KB a second.
const bodyPatience = 30 * time.Second

// streamed are the calls whose bodies go on for as long as a person likes.
var streamed = map[string]bool{
	skeinv1connect.ClusterServiceExecProcedure:            true,
	skeinv1connect.InsideServiceAttachProcedure:           true,
	skeinv1connect.InsideServiceCopyInProcedure:           true,
	skeinv1connect.InsideServicePortForwardProcedure:      true,
	skeinv1connect.ClusterServiceImportImageProcedure:     true,
	skeinv1connect.ImageServicePushImageProcedure:         true,
	skeinv1connect.ClusterServiceRestoreSnapshotProcedure: true,
}

// timed bounds how long the body of a call takes to come. What is answered may
// take as long as it likes.
func timed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if streamed[r.URL.Path] || r.Body == nil {
			next.ServeHTTP(w, r)
			return
		}
		b := &timedBody{ReadCloser: r.Body, control: http.NewResponseController(w), left: bodyPatience}
		defer b.end()
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

// A timedBody is read by one goroutine at a time.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	left    time.Duration

	mu    sync.Mutex
	ended bool // the handler has returned, and the connection is another's
}

// Read fails once all reads together have waited for longer than they may. The
// connection is bounded only for as long as it waits: when its body has come, a
// call may go on.
func (b *timedBody) Read(p []byte) (int, error) {
	begin := time.Now()
	b.until(begin.Add(b.left))
	n, err := b.ReadCloser.Read(p)
	b.left = max(0, b.left-time.Since(begin))
	if err == nil || err == io.EOF {
		b.until(time.Time{})
	}
	return n, err
}

func (b *timedBody) until(deadline time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		_ = b.control.SetReadDeadline(deadline) // what cannot be bounded is bounded by the connection
	}
}

// end leaves the connection alone from here on: who passes a body on may read
// it beyond the call.
func (b *timedBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}
