package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// login stands before a registry and wants a name and a password.
func login(t *testing.T, w *world, user, password string) {
	t.Helper()
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if u, p, ok := r.BasicAuth(); ok && u == user && p == password {
			return false
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		rw.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(rw, `{"errors":[{"code":"UNAUTHORIZED","message":"log in first"}]}`)
		return true
	}
}

func dockerFile(host, user, password string) []byte {
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func TestCredentialsOpenARegistry(t *testing.T) {
	w := raise(t)
	login(t, w, "ann", "s3cret")
	right, err := ParseKeys(dockerFile("http://"+w.host+"/v2/", "ann", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := ParseKeys(dockerFile(w.host, "ann", "guess"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.open(w.host+"/web:1", right).Resolve(t.Context()); err != nil {
		t.Errorf("with credentials: %v", err)
	}
	for what, keys := range map[string][]Keys{"without": nil, "with others": {wrong}} {
		_, err := w.open(w.host+"/web:1", keys...).Resolve(t.Context())
		var e *Error
		if !errors.As(err, &e) || !e.Denied() {
			t.Errorf("%s credentials: got %v, want it denied", what, err)
		}
		if err != nil && strings.Contains(err.Error(), "guess") {
			t.Errorf("the error tells a password: %v", err)
		}
	}
	// Those of the machine, which may come later.
	path := filepath.Join(t.TempDir(), "config.json")
	w.opt.Keys = NewFile(path)
	if _, err := w.open(w.host + "/web:1").Resolve(t.Context()); err == nil {
		t.Error("a file that is not there opens a registry")
	}
	if err := os.WriteFile(path, dockerFile(w.host, "ann", "s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.open(w.host + "/web:1").Resolve(t.Context()); err != nil {
		t.Errorf("with the machine's credentials: %v", err)
	}
}

// A registry that wants tokens may name any place that gives them out. Credentials
// do not go there in the clear.
func TestCredentialsDoNotTravelInTheClear(t *testing.T) {
	w := raise(t)
	var asked atomic.Int32
	tokens, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }), ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(tokens) }()
	defer s.Close()
	w.opt.Dial = new(net.Dialer).DialContext // no address is refused: the realm is
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "" {
			return false
		}
		rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, tokens.Addr()))
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	}
	keys, err := ParseKeys(dockerFile(w.host, "ann", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.open(w.host+"/web:1", keys).Resolve(t.Context())
	if err == nil || !strings.Contains(err.Error(), "unencrypted") || asked.Load() > 0 {
		t.Errorf("got %v, the place was asked %d times", err, asked.Load())
	}
}

func TestTokensAreFetched(t *testing.T) {
	w := raise(t)
	var tokens atomic.Int32
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			if u, p, ok := r.BasicAuth(); !ok || u != "ann" || p != "s3cret" {
				rw.WriteHeader(http.StatusUnauthorized)
				return true
			}
			tokens.Add(1)
			_ = json.NewEncoder(rw).Encode(map[string]any{"token": "t0ken", "expires_in": 300})
			return true
		}
		if r.Header.Get("Authorization") == "Bearer t0ken" {
			return false
		}
		rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, w.host))
		rw.WriteHeader(http.StatusUnauthorized)
		return true
	}
	keys, err := ParseKeys(dockerFile(w.host, "ann", "s3cret"))
	if err != nil {
		t.Fatal(err)
	}
	// The tokens' place takes GET alone, as some do.
	old := w.before
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		old(rw, r)
	}))
	defer s.Close()
	source := w.open(w.host+"/web:1", keys)
	w.before = func(rw http.ResponseWriter, r *http.Request) bool { return old(rw, r) }
	if _, err := source.Resolve(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := source.Blob(t.Context(), w.layer(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	_ = r.Close()
	if n := tokens.Load(); n != 1 {
		t.Errorf("%d tokens were fetched, want 1", n)
	}
}
