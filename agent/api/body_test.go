package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// oneConn listens for a single connection.
type oneConn struct {
	conns chan net.Conn
	close func()
}

func (l oneConn) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (l oneConn) Close() error   { l.close(); return nil }
func (l oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// served returns the client's end of a connection to a server of h.
func served(t *testing.T, h http.Handler) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	conns := make(chan net.Conn, 1)
	l := oneConn{conns, sync.OnceFunc(func() { close(conns) })}
	conns <- there
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Second} //nolint:gosec // a test's
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() {
		_ = here.Close()
		_ = server.Close()
		<-ended
	})
	return here
}

func TestABodyThatComesTooSlowlyIsGivenUp(t *testing.T) {
	for name, pause := range map[string]time.Duration{"in drops": time.Second, "not at all": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				read := make(chan error, 1)
				conn := served(t, timed(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
					_, err := io.ReadAll(r.Body)
					read <- err
				})))
				begin := time.Now()
				if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: n1\r\nContent-Length: 1000\r\n\r\n", skeinv1connect.ClusterServiceApplyProcedure); err != nil {
					t.Fatal(err)
				}
				stopped := make(chan struct{})
				go func() {
					defer close(stopped)
					for {
						time.Sleep(pause)
						if _, err := conn.Write([]byte("a")); err != nil {
							return
						}
					}
				}()
				if err := <-read; err == nil {
					t.Error("the body was taken for whole")
				}
				if took := time.Since(begin); took < bodyPatience-time.Second || took > bodyPatience+time.Second {
					t.Errorf("given up after %v, want %v", took, bodyPatience)
				}
				_ = conn.Close()
				<-stopped
			})
		})
	}
}

func TestACallGoesOnAfterItsBodyHasCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := served(t, timed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			select {
			case <-time.After(10 * bodyPatience):
				_, _ = w.Write(body)
			case <-r.Context().Done():
				t.Error("the call was cut off")
			}
		})))
		for _, path := range []string{skeinv1connect.ClusterServiceWatchProcedure, "/", skeinv1connect.ClusterServiceWatchProcedure} { // on one connection
			go func() {
				_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: n1\r\nContent-Length: 5\r\n\r\nhello", path)
			}()
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" {
				t.Errorf("answered %q, %v", body, err)
			}
			_ = res.Body.Close()
		}
	})
}

func TestAStreamOfAPersonMayPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan error, 1)
		conn := served(t, timed(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			read <- err
		})))
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: n1\r\nContent-Length: 1\r\n\r\n", skeinv1connect.ClusterServiceExecProcedure); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		go func() { _, _ = conn.Write([]byte("a")) }()
		if err := <-read; err != nil {
			t.Error(err)
		}
	})
}
