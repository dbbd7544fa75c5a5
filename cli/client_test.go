package cli

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// A machine that loses its power says nothing any more: no answer, no FIN.
func TestASilentServerIsGivenUpWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := &skeinv1.ClientContext{Server: "unix:///nowhere"}
		base, transport, err := newTransport(target)
		if err != nil {
			t.Fatal(err)
		}
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs) }() // takes it all, answers nothing
			return ours, nil
		}
		defer transport.CloseIdleConnections()
		begin := time.Now()
		stream, err := skeinv1connect.NewClusterServiceClient(overTransport(base, transport, target)).Watch(t.Context(), &skeinv1.GetRequest{Kind: "pods"})
		if err == nil {
			_, err = stream.Receive()
		}
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
		if err == nil || !passing(err) || !strings.Contains(explain(err).message, "cannot reach unix:///nowhere") {
			t.Errorf("error %v, want one that is worth another try", err)
		}
	})
}
