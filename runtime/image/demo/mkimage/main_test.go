package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/skein-dev/skein/runtime/image"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "unpack-for-test" {
		os.Exit(image.UnpackMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func TestTheSameProgramGivesTheSameArchive(t *testing.T) {
	program := bytes.Repeat([]byte("\x7fELF and more "), 100_000)
	one, err := build(program, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	two, err := build(program, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, two) {
		t.Error("two builds differ")
	}
}

func TestTheArchiveHoldsThreeImagesThatRun(t *testing.T) {
	archive, err := build([]byte("the program"), runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := image.Open(image.Options{
		Dir: dir, UnpackCommand: []string{"/usr/bin/env", "GORACE=atexit_sleep_ms=0", self, "unpack-for-test"}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.Import(t.Context(), bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"skein/demo:v1", "skein/demo:v2", "skein/demo:bad"} {
		if len(list) != 3 || list[i].Reference != want {
			t.Fatalf("imported %+v, want %s as number %d", list, want, i)
		}
		cfg, err := s.Config(t.Context(), list[i].Digest)
		if err != nil || cfg.Entrypoint[0] != "/bin/demo" || cfg.User != "demo" {
			t.Errorf("%s: config %+v, %v", want, cfg, err)
		}
		if _, err := s.Mounts(t.Context(), want, list[i].Digest); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
	// One folder for the program, one for each version and one for each root.
	folders, err := filepath.Glob(filepath.Join(dir, "snapshots", "snapshots", "*"))
	if err != nil || len(folders) != 1+3+3 {
		t.Errorf("%d folders of snapshots, %v, want 7", len(folders), err)
	}
}
