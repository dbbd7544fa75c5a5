package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/semaphore"
)

// out raises a way out in a folder of its own.
func out(t *testing.T) string {
	path := filepath.Join(t.TempDir(), egressSocket)
	ln, err := listenEgress(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	e := &exit{log: slog.New(slog.DiscardHandler), slots: semaphore.NewWeighted(2)}
	go func() { done <- e.serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return path
}

// leave sends one request line and returns what comes back, and the connection.
func leave(t *testing.T, path, request string) (*http.Response, *bufio.Reader, net.Conn) {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprint(c, request+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatal(err)
	}
	return res, r, c
}

func TestEgressConnectsToWhatIsWrittenDown(t *testing.T) {
	path := out(t)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v, want one for root alone", info, err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello "+r.URL.Path) }))
	defer s.Close()
	for range 5 { // more than there are slots: each is given back
		res, r, c := leave(t, path, "CONNECT "+s.Listener.Addr().String())
		if res.StatusCode != http.StatusOK {
			t.Fatalf("got %s, want 200", res.Status)
		}
		if _, err := fmt.Fprint(c, "GET /there HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(r); !strings.HasSuffix(string(got), "hello /there") {
			t.Errorf("got %q", got)
		}
		_ = c.Close()
	}
}

func TestEgressRefuses(t *testing.T) {
	path := out(t)
	for _, request := range []string{
		"GET http://127.0.0.1:1/", "CONNECT nowhere", "CONNECT 169.254.169.254:80", "CONNECT 0.0.0.0:80",
		"CONNECT [fe80::1]:80", "CONNECT 224.0.0.1:80",
	} {
		if res, _, _ := leave(t, path, request); res.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: got %s, want 502", request, res.Status)
		}
	}
	if got, err := outward(t.Context(), "LOCALHOST"); err == nil {
		t.Errorf("a name that points to loopback was resolved: %v", got)
	}
}

func TestDialThroughEgress(t *testing.T) {
	dial := Egress(out(t))
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer s.Close()
	c := s.Client()
	c.Transport.(*http.Transport).DialContext = dial
	for range 3 {
		res, err := c.Post(s.URL, "text/plain", strings.NewReader("there and back"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(got) != "there and back" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	c.CloseIdleConnections()
	if _, err := dial(t.Context(), "tcp", "169.254.169.254:80"); err == nil || !strings.Contains(err.Error(), "may be dialled") {
		t.Errorf("got %v, want the reason", err)
	}
	if _, err := Egress(filepath.Join(t.TempDir(), "none"))(t.Context(), "tcp", "127.0.0.1:1"); err == nil {
		t.Error("dialled by a socket that is not there")
	}
}
