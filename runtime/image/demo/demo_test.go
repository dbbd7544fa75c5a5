package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newServer(version string) (*server, *bytes.Buffer) {
	var out bytes.Buffer
	return &server{version: version, log: log.New(&out, "", 0), exit: func(int) {}}, &out
}

// ask sends one request and returns the status and the body.
func ask(s *server, path string) (int, string) {
	rec := httptest.NewRecorder()
	s.handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec.Code, rec.Body.String()
}

func TestRootTellsWhoAnswers(t *testing.T) {
	t.Setenv("POD_NAME", "web-1")
	t.Setenv("NODE_NAME", "n2")
	s, out := newServer("v1")
	ask(s, "/")
	code, body := ask(s, "/")
	var got answer
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	if want := (answer{Version: "v1", Pod: "web-1", Node: "n2", Served: 1}); code != http.StatusOK || got != want {
		t.Errorf("got %d %+v, want 200 %+v", code, got, want)
	}
	if want := "GET / 200\nGET / 200\n"; out.String() != want {
		t.Errorf("logged %q, want %q", out, want)
	}
}

func TestAnswersByPath(t *testing.T) {
	tests := []struct {
		version, path string
		code          int
	}{
		{"v1", "/healthz", 200},
		{"bad", "/healthz", 500},
		{"bad", "/", 200},
		{"v1", "/nothing", 404},
		{"v1", "/burn?ms=1", 200},
		{"v1", "/burn?ms=x", 400},
		{"v1", "/burn?ms=-1", 400},
		{"v1", "/burn?ms=99999999", 400},
		{"v1", "/fail?for=x", 400},
		{"v1", "/exit?code=256", 400},
	}
	for _, tt := range tests {
		s, _ := newServer(tt.version)
		if code, _ := ask(s, tt.path); code != tt.code {
			t.Errorf("%s %s: got %d, want %d", tt.version, tt.path, code, tt.code)
		}
	}
}

func TestFailLastsAsLongAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer("v1")
		if code, _ := ask(s, "/fail?for=5"); code != 500 {
			t.Errorf("/fail answers %d, want 500", code)
		}
		time.Sleep(4999 * time.Millisecond)
		for _, path := range []string{"/", "/healthz"} {
			if code, _ := ask(s, path); code != 500 {
				t.Errorf("%s within the time answers %d, want 500", path, code)
			}
		}
		time.Sleep(time.Millisecond)
		if code, _ := ask(s, "/healthz"); code != 200 {
			t.Errorf("/healthz after the time answers %d, want 200", code)
		}
	})
}

func TestExitEndsWithTheCode(t *testing.T) {
	s, _ := newServer("v1")
	got := -1
	s.exit = func(code int) { got = code }
	if code, body := ask(s, "/exit?code=3"); code != 200 || body != "bye\n" || got != 3 {
		t.Errorf("answered %d %q and exited with %d, want 200 bye and 3", code, body, got)
	}
}

func TestServeEndsOnceTold(t *testing.T) {
	t.Setenv("PORT", "0")
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, log.New(w, "", 0))
		w.Close()
	}()
	line := make([]byte, 200)
	n, err := r.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimSpace(string(line[:n]))
	port := text[strings.LastIndexByte(text, ':')+1:]
	go func() { _, _ = io.Copy(io.Discard, r) }()
	if err := get(t.Context(), []string{"http://127.0.0.1:" + port + "/healthz"}); err != nil {
		t.Errorf("get from %q: %v", text, err)
	}
	if err := get(t.Context(), []string{"http://127.0.0.1:" + port + "/nothing"}); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("get of what is not there: error %v, want 404", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestTheVersionComesFromTheImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "version")
	if got := readVersion(path); got != "dev" {
		t.Errorf("without a file: %q, want dev", got)
	}
	if err := os.WriteFile(path, []byte("v2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := readVersion(path); got != "v2" {
		t.Errorf("got %q, want v2", got)
	}
}

func TestCommandsExitAsTheyShould(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
	}{
		"exit":             {[]string{"exit"}, 0},
		"exit with a code": {[]string{"exit", "7"}, 7},
		"exit with a word": {[]string{"exit", "x"}, 2},
		"print":            {[]string{"print", "a", "b"}, 0},
		"env":              {[]string{"env"}, 0},
		"a short sleep":    {[]string{"sleep", "0.001"}, 0},
		"a bad sleep":      {[]string{"sleep", "long"}, 1},
		"cat nothing":      {[]string{"cat", "/nonexistent"}, 1},
		"get without URL":  {[]string{"get"}, 1},
		"another word":     {[]string{"dance"}, 2},
	}
	for name, tt := range tests {
		if code := run(t.Context(), tt.args); code != tt.code {
			t.Errorf("%s: exit code %d, want %d", name, code, tt.code)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if code := run(ctx, []string{"sleep"}); code != 0 {
		t.Errorf("sleep until SIGTERM: exit code %d, want 0", code)
	}
}
