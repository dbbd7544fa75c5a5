package lab

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsPublishedOfServices(t *testing.T) {
	got, err := parseOutlets([]byte(`{"items":[
		{"metadata":{"name":"late","namespace":"shop","creationTimestamp":"2026-01-02T00:00:00Z","annotations":{"skein.dev/publish":"8080,9000:api,30080:api"}},
		 "spec":{"type":"ClusterIP","clusterIP":"10.96.0.8","ports":[{"name":"x","port":1,"protocol":"TCP"},{"name":"api","port":90,"protocol":"TCP"}]}},
		{"metadata":{"name":"plain","namespace":"shop"},"spec":{"type":"ClusterIP","clusterIP":"10.96.0.9","ports":[{"port":80,"protocol":"TCP"}]}},
		{"metadata":{"name":"web","namespace":"default","creationTimestamp":"2026-01-01T00:00:00Z","annotations":{"skein.dev/publish":"8080"}},
		 "spec":{"type":"NodePort","clusterIP":"10.96.0.7","ports":[{"port":80,"nodePort":30080,"protocol":"TCP"},{"name":"u","port":53,"nodePort":30053,"protocol":"UDP"}]}}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []outlet{
		{Port: 8080, Service: "default/web", addr: "10.96.0.7:80"},
		{Port: 8080, Service: "shop/late", addr: "10.96.0.8:1", Trouble: "service default/web has this port"},
		{Port: 9000, Service: "shop/late", addr: "10.96.0.8:90"},
		{Port: 30080, Service: "default/web", node: 30080},
		{Port: 30080, Service: "shop/late", addr: "10.96.0.8:90", Trouble: "service default/web has this port"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(outlet{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAPortThatIsTakenIsPublishedOnceItIsFree(t *testing.T) {
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port
	var log bytes.Buffer
	dir := t.TempDir()
	p := &publisher{name: "none", log: slog.New(slog.NewTextHandler(&log, nil)), open: map[int32]*opened{}}
	t.Cleanup(func() {
		for _, o := range p.open {
			o.close()
		}
	})
	set := func(want ...outlet) string {
		t.Helper()
		if err := p.set(t.Context(), dir, want); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, publishFile))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	web := outlet{Port: int32(port), Service: "default/web", addr: "10.96.0.7:80"} //nolint:gosec // a port
	for range 3 {
		if got := set(web); !strings.Contains(got, "address already in use") {
			t.Errorf("somebody else listens there, and written down is %s", got)
		}
	}
	if n := strings.Count(log.String(), "cannot publish"); n != 1 {
		t.Errorf("the log tells %d times of one trouble:\n%s", n, log.String())
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := set(web); strings.Contains(got, "trouble") || !listens(port) {
			t.Errorf("the port is free, and written down is %s", got)
		}
	}
	if got := set(); got != "[]" || listens(port) {
		t.Errorf("the Service is gone, and written down is %s; somebody listens: %v", got, listens(port))
	}
}
