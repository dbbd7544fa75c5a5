package runc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestARootOfManyLayers(t *testing.T) {
	s := newScene(t)
	s.serve()
	var layers []string
	for i := range 100 {
		dir := filepath.Join(s.dir, fmt.Sprintf("layer-with-a-long-name-as-stores-have-them-%d", i))
		s.must(os.Mkdir(dir, 0o755))
		s.must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), []byte(fmt.Sprint(i)), 0o644))
		layers = append(layers, dir)
	}
	spec := s.one("read", "/f0", ";", "read", "/f99", ";", "write", "/x")
	spec.RootFS[0].Options[0] = "lowerdir=" + strings.Join(layers, ":") + ":" + filepath.Join(world, "image")
	if got := s.says(spec); got != "0\n99\nwrote /x" {
		t.Errorf("inside: %q", got)
	}
}

// What kernels before 6.8 need is tried on every one.
func TestManyLayersByDescriptor(t *testing.T) {
	dir := filepath.Join(world, t.Name())
	target := filepath.Join(dir, "root")
	var layers []string
	for i := range 127 { // as many as images may have
		layer := filepath.Join(dir, fmt.Sprintf("layer-with-a-long-name-as-stores-have-them-%d", i))
		if err := errors.Join(os.MkdirAll(layer, 0o755), os.WriteFile(filepath.Join(layer, fmt.Sprintf("f%d", i)), nil, 0o644), os.WriteFile(filepath.Join(layer, "top"), []byte(fmt.Sprint(i)), 0o644)); err != nil {
			t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mountByDescriptor("overlay", []string{"lowerdir=" + strings.Join(layers, ":")}, 0, target); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unmountAll(target), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	for i := range layers {
		if _, err := os.Stat(filepath.Join(target, fmt.Sprintf("f%d", i))); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(target, "top")); err != nil || string(text) != "0" {
		t.Errorf("the first layer is not the uppermost: %q, %v", text, err)
	}
	gone := []string{"lowerdir=" + layers[0] + ":/nonexistent"}
	if err := mountByDescriptor("overlay", gone, 0, target); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a layer that is not there: %v", err)
	}
}
