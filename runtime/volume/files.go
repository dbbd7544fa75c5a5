package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A File is one small file of a volume.
type File struct {
	Path string // relative, without "..", below the volume
	Data []byte
	Mode fs.FileMode
}

// The names by which a volume of files changes as a whole, as Kubernetes does it:
// each file is a link through dataLink, which points at the folder that holds
// this version of all of them and is replaced in one step.
const (
	dataLink = "..data"
	nextLink = "..data_next"
)

// Files returns the folder of a volume that holds these files and no others, in
// memory. One that is mounted already changes all at once for who reads it.
func (s *Store) Files(pod, name string, files []File, owner Owner) (string, error) {
	if err := plainName(pod, name); err != nil {
		return "", err
	}
	dir := s.run(pod, filesDir, name)
	made, err := makeDir(dir)
	if err != nil {
		return "", err
	}
	if made {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the modes are those of the files
			return "", err
		}
	}
	version := versionOf(files, owner)
	if have, err := os.Readlink(filepath.Join(dir, dataLink)); err == nil && have == version {
		return dir, tidyFiles(dir, version, files)
	}
	at := filepath.Join(dir, version)
	if err := os.RemoveAll(at); err != nil { // of one that was broken off
		return "", err
	}
	if err := writeFiles(at, files, owner); err != nil {
		return "", errors.Join(err, os.RemoveAll(at))
	}
	next := filepath.Join(dir, nextLink)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.Symlink(version, next); err != nil {
		return "", err
	}
	if err := os.Rename(next, filepath.Join(dir, dataLink)); err != nil {
		return "", err
	}
	return dir, tidyFiles(dir, version, files)
}

// versionOf names a set of files, so that the same set is not written again.
func versionOf(files []File, owner Owner) string {
	h := sha256.New()
	fmt.Fprintln(h, owner.Group)
	sorted := slices.SortedFunc(slices.Values(files), func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, f := range sorted {
		fmt.Fprintln(h, len(f.Path), f.Path, f.Mode, len(f.Data))
		h.Write(f.Data)
	}
	return ".." + hex.EncodeToString(h.Sum(nil)[:16])
}

func writeFiles(dir string, files []File, owner Owner) error {
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // the modes are those of the files
		return err
	}
	for _, f := range files {
		if !filepath.IsLocal(f.Path) || strings.HasPrefix(f.Path, "..") {
			return fmt.Errorf("%q is no path in a volume", f.Path)
		}
		path := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as above
			return err
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(path, f.Mode.Perm()); err != nil {
			return err
		}
	}
	return own(dir, owner, readableBits)
}

// tidyFiles links every file at the top, and removes what is of earlier versions.
func tidyFiles(dir, version string, files []File) error {
	want := map[string]bool{dataLink: true, version: true}
	for _, f := range files {
		top, _, _ := strings.Cut(filepath.ToSlash(f.Path), "/")
		want[top] = true
		link := filepath.Join(dir, top)
		if err := os.Symlink(filepath.Join(dataLink, top), link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if !want[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Keep keeps a few bytes in memory beside the volumes, for root alone; nil drops
// them. They outlive the agent, and no boot.
func (s *Store) Keep(name string, body []byte) error {
	path := filepath.Join(s.cfg.RunDir, keptDir, hex.EncodeToString([]byte(name)))
	if len(filepath.Base(path)) > 255 {
		sum := sha256.Sum256([]byte(name))
		path = filepath.Join(s.cfg.RunDir, keptDir, hex.EncodeToString(sum[:]))
	}
	if body == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, body) {
		return nil
	}
	next := path + ".next"
	if err := os.WriteFile(next, body, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Kept returns all that is kept.
func (s *Store) Kept() ([][]byte, error) {
	dir := filepath.Join(s.cfg.RunDir, keptDir)
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".next") {
			continue
		}
		body, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		out = append(out, body)
	}
	return out, nil
}
