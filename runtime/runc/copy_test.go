package runc

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

// upper is where a container's own layer is on this machine.
func (s *scene) upper(id container.ID) string {
	return filepath.Join(s.dir, "layers", id.String(), "upper")
}

// copied is what comes out of a container: names, and what files hold.
func (s *scene) copied(id container.ID, at string) (map[string]string, []string) {
	s.t.Helper()
	var b bytes.Buffer
	notices, err := s.CopyOut(s.t.Context(), id, at, &b)
	s.must(err)
	out := map[string]string{}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out, notices
		}
		s.must(err)
		text, err := io.ReadAll(r)
		s.must(err)
		out[h.Name] = h.Linkname + string(text)
	}
}

func tarOf(entries ...tar.Header) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		text := h.Uname
		h.Uname, h.Size = "", int64(len(text))
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		_, _ = io.WriteString(w, text)
	}
	_ = w.Close()
	return &b
}

// Links of a container lead nowhere but inside it, whichever element of the path
// they are: what this machine has at that place is neither read nor written.
func TestCopyFollowsNoLinkOutOfTheContainer(t *testing.T) {
	s := newScene(t)
	s.serve()
	outside := filepath.Join(s.dir, "outside")
	s.must(os.Mkdir(outside, 0o755))
	s.must(os.WriteFile(filepath.Join(outside, "secret"), []byte("of the machine"), 0o644))
	id := s.start(s.one("sleep"))
	up := s.upper(id)
	s.must(errors.Join(
		os.Symlink(outside, filepath.Join(up, "out")),
		os.Symlink("../../../../../../../../.."+outside, filepath.Join(up, "dots")),
		os.Symlink("/proc/1/root"+outside, filepath.Join(up, "magic")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(up, "file")),
	))
	for _, name := range []string{"out", "dots", "magic"} {
		if _, err := s.CopyOut(t.Context(), id, "/"+name+"/secret", io.Discard); err == nil {
			t.Errorf("read the machine's file by way of /%s", name)
		}
		_, err := s.CopyIn(t.Context(), id, container.CopySpec{Path: "/" + name + "/evil"}, tarOf(tar.Header{Name: "evil", Typeflag: tar.TypeReg, Mode: 0o644, Uname: "x"}))
		if err == nil {
			t.Errorf("wrote by way of /%s", name)
		}
	}
	if got, _ := s.copied(id, "/file"); got["file"] != filepath.Join(outside, "secret") {
		t.Errorf("a link to a file came as %q, want the link itself", got)
	}
	// A link in the tar, then a file through it.
	_, err := s.CopyIn(t.Context(), id, container.CopySpec{Path: "/", Archive: true}, tarOf(
		tar.Header{Name: "sub", Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: outside},
		tar.Header{Name: "sub/evil", Typeflag: tar.TypeReg, Mode: 0o644, Uname: "x"},
	))
	if err == nil {
		t.Error("wrote through a link of the tar's own")
	}
	for _, name := range []string{"../evil", "a/../../evil", strings.Repeat("d/", 300) + "evil", strings.Repeat("x", 5000)} {
		if _, err := s.CopyIn(t.Context(), id, container.CopySpec{Path: "/", Archive: true}, tarOf(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Uname: "x"})); err == nil {
			t.Errorf("unpacked the name %.40q", name)
		}
	}
	left, err := os.ReadDir(outside)
	s.must(err)
	if len(left) != 1 {
		t.Errorf("outside is now %v", left)
	}
}

// What is swapped for a link while it is copied is never followed.
func TestCopyWhileLinksAreSwapped(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep"))
	outside := filepath.Join(s.dir, "outside")
	s.must(os.Mkdir(outside, 0o755))
	s.must(os.WriteFile(filepath.Join(outside, "a"), []byte("of the machine"), 0o644))
	root := filepath.Join("/proc", strconv.Itoa(s.status(id).PID), "root") // as a program in it would
	s.must(os.MkdirAll(root+"/real", 0o755))
	s.must(os.WriteFile(root+"/real/a", []byte("inside"), 0o644))
	s.must(os.Symlink(outside, root+"/trap"))
	s.must(os.Mkdir(root+"/box", 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = os.Rename(root+"/real", root+"/box/d")
			_ = os.Rename(root+"/box/d", root+"/real")
			_ = os.Rename(root+"/trap", root+"/box/d")
			_ = os.Rename(root+"/box/d", root+"/trap")
		}
	}()
	for range 30 {
		var b bytes.Buffer
		_, err := s.CopyOut(t.Context(), id, "/box", &b)
		if strings.Contains(b.String(), "of the machine") {
			t.Fatal("the machine's file came out")
		}
		_ = err // what vanishes under it may fail the copy
		_, _ = s.CopyIn(t.Context(), id, container.CopySpec{Path: "/box/d"}, tarOf(tar.Header{Name: "evil", Typeflag: tar.TypeReg, Mode: 0o644, Uname: "x"}))
	}
	cancel()
	<-done
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside is now %v, %v", left, err)
	}
}

func TestCopyLeavesOutWhatIsNoFile(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep"))
	up := s.upper(id)
	s.must(errors.Join(
		os.Mkdir(filepath.Join(up, "d"), 0o755),
		syscall.Mkfifo(filepath.Join(up, "d/pipe"), 0o644),
		syscall.Mknod(filepath.Join(up, "d/null"), syscall.S_IFCHR|0o666, 1<<8|3),
		os.WriteFile(filepath.Join(up, "d/f"), []byte("x"), 0o644),
	))
	got, notices := s.copied(id, "/d")
	if len(got) != 2 || got["d/f"] != "x" || len(notices) != 2 {
		t.Errorf("came out %q, told %q", got, notices)
	}
	notices, err := s.CopyIn(t.Context(), id, container.CopySpec{Path: "/", Archive: true}, tarOf(tar.Header{Name: "dev2", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 8}))
	if _, there := os.Lstat(filepath.Join(up, "dev2")); err != nil || len(notices) != 1 || there == nil {
		t.Errorf("a device was made: %v, %q", err, notices)
	}
}

// A file that grows without end ends where it was when it was opened.
func TestCopyOfAnEndlessFileEnds(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep"))
	f, err := os.Create(filepath.Join(s.upper(id), "log"))
	s.must(err)
	defer f.Close()
	line := bytes.Repeat([]byte("x"), 64<<10)
	_, err = f.Write(line)
	s.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil && n < 1<<30; n += len(line) {
			if _, err := f.Write(line); err != nil {
				return
			}
		}
	}()
	got, _ := s.copied(id, "/log")
	cancel()
	<-done
	if len(got["log"]) == 0 {
		t.Errorf("came out %d files", len(got))
	}
}

// Files are read and written as the container's user may, no more.
func TestCopyHasTheRightsOfTheContainer(t *testing.T) {
	s := newScene(t)
	s.serve()
	spec := s.one("sleep")
	spec.User = "redis"
	id := s.start(spec)
	up := s.upper(id)
	s.must(errors.Join(
		os.WriteFile(filepath.Join(up, "private"), []byte("root's"), 0o600),
		os.Mkdir(filepath.Join(up, "data"), 0o755), os.Chown(filepath.Join(up, "data"), 999, 998),
	))
	if _, err := s.CopyOut(t.Context(), id, "/private", io.Discard); err == nil {
		t.Error("the container's user read what is root's")
	}
	in := func(at string) error {
		_, err := s.CopyIn(t.Context(), id, container.CopySpec{Path: at}, tarOf(tar.Header{Name: "x", Typeflag: tar.TypeReg, Mode: 0o4755, Uname: "x"}))
		return err
	}
	if err := in("/x"); err == nil {
		t.Error("the container's user wrote where it may not")
	}
	s.must(in("/data/x"))
	info, err := os.Stat(filepath.Join(up, "data/x"))
	s.must(err)
	st := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // on Linux
	if st.Uid != 999 || st.Gid != 998 || info.Mode() != 0o755 {
		t.Errorf("it is %d:%d %s", st.Uid, st.Gid, info.Mode())
	}
}

// A copy ends with its context, and its process with it.
func TestCopyEndsWithItsContext(t *testing.T) {
	s := newScene(t)
	s.serve()
	id := s.start(s.one("sleep"))
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := s.CopyIn(ctx, id, container.CopySpec{Path: "/big"}, r)
		_ = r.CloseWithError(err) // else nobody would ever take what is written
		ended <- err
	}()
	_, err := w.Write(make([]byte, 1))
	s.must(err)
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	_ = w.Close()
	if _, err := os.Lstat(filepath.Join(s.upper(id), "big")); err == nil {
		t.Error("half of it is there")
	}
}
