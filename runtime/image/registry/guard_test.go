package registry

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAddressesOfThisMachineAreNoRegistries(t *testing.T) {
	w := raise(t)
	w.opt.ConfigDir = t.TempDir() // nothing is written down any more
	var asked atomic.Int32
	w.before = func(http.ResponseWriter, *http.Request) bool { asked.Add(1); return false }
	for _, ref := range []string{w.host + "/web:1", "169.254.169.254/latest/meta-data:1", "0.0.0.0:1/x:1"} {
		_, err := w.open(ref).Resolve(t.Context())
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), "written down") || e.Unreachable() {
			t.Errorf("%s: got %v, want a refusal for good", ref, err)
		}
	}
	if asked.Load() > 0 {
		t.Errorf("a server of this machine was asked %d times", asked.Load())
	}
}

func TestARedirectDoesNotLeadToThisMachine(t *testing.T) {
	w := raise(t)
	var asked atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer inside.Close()
	d := w.layer()
	w.before = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		http.Redirect(rw, r, inside.URL+"/secret", http.StatusTemporaryRedirect)
		return true
	}
	r, err := w.open(w.host+"/web:1").Blob(t.Context(), d, 0)
	if err == nil {
		_, err = io.ReadAll(r)
		_ = r.Close()
	}
	if err == nil || asked.Load() > 0 {
		t.Errorf("got %v, and what is behind the redirect was asked %d times", err, asked.Load())
	}
}
