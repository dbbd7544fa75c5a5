package image

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// fetchVerb makes the test's program one that fetches an image and makes a root of
// it, until it is killed: with a store's folder, a server's address and a digest.
const fetchVerb = "fetch-and-mount"

func fetchMain(args []string) int {
	self, err := os.Executable()
	if err != nil {
		return 2
	}
	s, err := Open(Options{Dir: args[0], UnpackCommand: []string{self, unpackVerb}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx := context.Background()
	err = s.Fetch(ctx, "web:1", Descriptor{Digest: args[2]}, server(args[1]), nil)
	if err == nil {
		_, err = s.Mounts(ctx, "root", args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// server is a peer that is reached by http.
type server string

func (s server) Blob(ctx context.Context, d Descriptor, offset int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, string(s)+"/"+d.Digest+"/"+strconv.FormatInt(offset, 10), nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, fmt.Errorf("%s: %w", res.Status, ErrNotFound)
	}
	return res.Body, nil
}

// killer counts what a store gives, and kills who takes it after so many bytes.
type killer struct {
	http.ResponseWriter
	left *atomic.Int64
	kill func()
}

func (k killer) Write(p []byte) (int, error) {
	n, err := k.ResponseWriter.Write(p)
	if k.left.Add(-int64(n)) <= 0 {
		if f, ok := k.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		k.kill()
	}
	return n, err
}

// The process is killed after so many bytes have come, or so long after all have:
// in the middle of a layer, between two, while they are unpacked, while a root is
// made. The next one finds nothing of it that is wrong, and goes on.
func TestAProcessThatIsKilledWhileItPulls(t *testing.T) {
	from, desc := source(t, hello(t), random(t, "one", 400_000), random(t, "two", 600_000))
	var size int64
	tree, err := from.store.known(t.Context(), desc.Digest)
	must(t, err)
	for _, l := range tree.layers() {
		size += l.Size
	}
	type moment struct {
		bytes int64
		after time.Duration
	}
	moments := []moment{{1, 0}, {2_000, 0}, {100_000, 0}, {450_000, 0}, {700_000, 0}, {size - 1, 0}}
	for after := time.Duration(0); after < 160*time.Millisecond; after += 20 * time.Millisecond {
		moments = append(moments, moment{size, after})
	}
	for _, m := range moments {
		t.Run(fmt.Sprintf("after %d bytes and %v", m.bytes, m.after), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			killed := killedAfter(t, from.store, dir, desc.Digest, m.bytes, m.after)
			s := open(t, dir)
			if left := snapshotsOf(t, s); !killed && len(left) == 0 {
				t.Error("a process that ended by itself left no root")
			}
			for key := range strings.SplitSeq(strings.Join(snapshotsOf(t, s), " "), " ") {
				if strings.HasPrefix(key, unpackPrefix) {
					t.Errorf("left of an unpacking: %s", key)
				}
			}
			var watch Progress
			must(t, s.Fetch(t.Context(), "web:1", desc, from, &watch))
			_, err := s.Mounts(t.Context(), "root", desc.Digest)
			must(t, err)
			if !s.Has(t.Context(), desc.Digest) {
				t.Error("the image is not whole")
			}
			must(t, s.Release(t.Context(), "root"))
			must(t, s.Remove(t.Context(), "web:1"))
			must(t, s.Collect(t.Context()))
			if left, blobs := snapshotsOf(t, s), blobsOf(t, s); len(left)+len(blobs) > 0 {
				t.Errorf("left after all was given up: snapshots %v, blobs %v", left, blobs)
			}
		})
	}
}

// killedAfter has a process pull from a store and kills it, and tells whether it
// was killed before it had ended.
func killedAfter(t *testing.T, from *Store, dir, digest string, bytes int64, after time.Duration) bool {
	t.Helper()
	var left atomic.Int64
	left.Store(bytes)
	enough := make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		offset, _ := strconv.ParseInt(parts[1], 10, 64)
		blob, size, err := from.OpenBlob(r.Context(), parts[0])
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		defer blob.Close()
		_, _ = io.Copy(killer{w, &left, func() {
			select {
			case enough <- struct{}{}:
			default:
			}
		}}, io.NewSectionReader(blob, offset, size-offset)) // who takes it may be dead
	}))
	defer srv.Close()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self, fetchVerb, dir, srv.URL, digest)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	must(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-enough:
	case err := <-ended:
		t.Fatalf("it ended before it was killed: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was asked for")
	}
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
		_ = cmd.Process.Kill()
		return <-ended != nil
	case err := <-ended:
		must(t, err)
		return false
	}
}

// Killed between making a snapshot's folder and writing its record.
func TestAFolderWithoutARecordIsInNobodysWay(t *testing.T) {
	dir := t.TempDir()
	must(t, open(t, dir).Close())
	must(t, os.MkdirAll(filepath.Join(dir, "snapshots/snapshots/1/fs"), 0o700))
	s := open(t, dir)
	archive, d := simple(t, "web:1", hello(t))
	load(t, s, archive)
	_, err := s.Mounts(t.Context(), "root", d)
	must(t, err)
}
