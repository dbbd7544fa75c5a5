package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// versionFile says in an image which of the demo images it is. All of them
// hold the same program, so that a layer travels and is unpacked once.
const versionFile = "/etc/demo/version"

// badVersion is the one that never becomes ready.
const badVersion = "bad"

// readVersion returns what the image says, or "dev" outside any.
func readVersion(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "dev"
	}
	return strings.TrimSpace(string(data))
}

// A server answers for one instance of the demo.
type server struct {
	version string
	log     *log.Logger
	exit    func(code int)
	served  atomic.Int64

	mu    sync.Mutex
	until time.Time // answers 500 before that
}

// answer is what / tells. A field that nobody set is empty.
type answer struct {
	Version string `json:"version"`
	Pod     string `json:"pod"`
	Node    string `json:"node"`
	Address string `json:"address"` // that the request came to
	Served  int64  `json:"served"`  // requests before this one
}

// drain is how long requests under way may take once the server was told to end.
const drain = 3 * time.Second

func serve(ctx context.Context, l *log.Logger) error {
	s := &server{version: readVersion(versionFile), log: l, exit: os.Exit}
	listener, err := net.Listen("tcp", ":"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		return err
	}
	l.Printf("demo %s listens on %s", s.version, listener.Addr())
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: l}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		l.Printf("demo %s ends", s.version)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		done <- web.Shutdown(ctx)
	}()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-done
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.root)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /burn", s.burn)
	mux.HandleFunc("GET /fail", s.fail)
	mux.HandleFunc("GET /exit", s.quit)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		mux.ServeHTTP(rec, r)
		s.log.Printf("%s %s %d", r.Method, r.URL.RequestURI(), rec.status)
	})
}

// A recorder remembers the status for the log.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (s *server) failing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until)
}

func (s *server) root(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if s.failing() {
		w.WriteHeader(http.StatusInternalServerError)
	}
	host, _ := os.Hostname() // empty will do
	a := answer{
		Version: s.version,
		Pod:     cmp.Or(os.Getenv("POD_NAME"), os.Getenv("HOSTNAME"), host),
		Node:    os.Getenv("NODE_NAME"),
		Served:  s.served.Add(1) - 1,
	}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.Address = addr.String()
	}
	_ = json.NewEncoder(w).Encode(a) // the client went away
}

func (s *server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.version == badVersion || s.failing() {
		http.Error(w, "not well", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// burn keeps one core busy for so many milliseconds.
func (s *server) burn(w http.ResponseWriter, r *http.Request) {
	ms, ok := number(w, r, "ms", 60_000)
	if !ok {
		return
	}
	x := uint64(1)
	for end := time.Now().Add(time.Duration(ms) * time.Millisecond); time.Now().Before(end) && r.Context().Err() == nil; {
		for range 10_000 {
			x = x*6364136223846793005 + 1
		}
	}
	runtime.KeepAlive(x)
	_, _ = w.Write([]byte("burnt\n"))
}

// fail makes this instance unwell for so many seconds.
func (s *server) fail(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, "for", 86_400)
	if !ok {
		return
	}
	s.mu.Lock()
	s.until = time.Now().Add(time.Duration(n) * time.Second)
	s.mu.Unlock()
	http.Error(w, "failing for "+strconv.Itoa(n)+" s", http.StatusInternalServerError)
}

// quit ends the process with a code, the answer being on its way.
func (s *server) quit(w http.ResponseWriter, r *http.Request) {
	code, ok := number(w, r, "code", 255)
	if !ok {
		return
	}
	_, _ = w.Write([]byte("bye\n"))
	_ = http.NewResponseController(w).Flush()
	s.log.Printf("exit with code %d, as asked", code)
	s.exit(code)
}

// number reads a query parameter from 0 to most, or answers 400.
func number(w http.ResponseWriter, r *http.Request, name string, most int) (int, bool) {
	n, err := strconv.Atoi(cmp.Or(r.URL.Query().Get(name), "0"))
	if err != nil || n < 0 || n > most {
		http.Error(w, name+" is a number from 0 to "+strconv.Itoa(most), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}

// Unwrap lets Flush through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
