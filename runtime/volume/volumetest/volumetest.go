// Package volumetest owns volumes that are made of nothing, for tests of nodes and
// of whole clusters: what was asked for is remembered, and no file is touched.
package volumetest

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strconv"
	"sync"

	"github.com/skein-dev/skein/runtime/volume"
)

// Volumes remember what they were asked for. The zero value is ready.
type Volumes struct {
	mu    sync.Mutex
	files map[string]map[string]volume.File // by folder, by path
	pods  map[string]bool
	used  map[string]int64 // by folder
	kept  map[string][]byte
}

// FilesOf returns a volume of files, by their paths.
func (v *Volumes) FilesOf(pod, name string) map[string]volume.File {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.files[path.Join("/volumes", pod, name)])
}

// Fill says how much an empty folder holds.
func (v *Volumes) Fill(pod, name string, bytes int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.used == nil {
		v.used = map[string]int64{}
	}
	v.used[path.Join("/volumes", pod, name)] = bytes
}

func (v *Volumes) at(pod string, parts ...string) string {
	if v.pods == nil {
		v.pods = map[string]bool{}
	}
	v.pods[pod] = true
	return path.Join(append([]string{"/volumes", pod}, parts...)...)
}

// Empty returns the folder of an empty volume.
func (v *Volumes) Empty(pod, name string, _ volume.Empty) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at(pod, name), nil
}

// Files takes the files of a volume.
func (v *Volumes) Files(pod, name string, files []volume.File, _ volume.Owner) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	dir := v.at(pod, name)
	if v.files == nil {
		v.files = map[string]map[string]volume.File{}
	}
	v.files[dir] = map[string]volume.File{}
	for _, f := range files {
		v.files[dir][f.Path] = f
	}
	return dir, nil
}

// Sub returns where a part of a volume would be mounted.
func (v *Volumes) Sub(pod, container string, number int, _, sub string) (string, error) {
	if sub == "" {
		return "", errors.New("no path in a volume")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at(pod, "sub", container, strconv.Itoa(number)), nil
}

// Host returns where a folder of the machine would be mounted.
func (v *Volumes) Host(pod, container string, number int, _ string, _ volume.HostType, _ string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.at(pod, volume.HostDir, container, strconv.Itoa(number)), nil
}

// Release has nothing to do.
func (v *Volumes) Release(string, string) error { return nil }

// Remove forgets a Pod.
func (v *Volumes) Remove(pod string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.pods, pod)
	maps.DeleteFunc(v.files, func(dir string, _ map[string]volume.File) bool { return path.Base(path.Dir(dir)) == pod })
	return nil
}

// Used tells what Fill said.
func (v *Volumes) Used(pod, name string, _ int) (bytes int64, over bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.used[path.Join("/volumes", pod, name)], false, nil
}

// Keep keeps a few bytes.
func (v *Volumes) Keep(name string, body []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.kept == nil {
		v.kept = map[string][]byte{}
	}
	v.kept[name] = slices.Clone(body)
	if body == nil {
		delete(v.kept, name)
	}
	return nil
}

// Kept returns all that is kept.
func (v *Volumes) Kept() ([][]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Values(v.kept)), nil
}

// Pods lists the Pods that have volumes.
func (v *Volumes) Pods() ([]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.pods)), nil
}

// Close forgets what is kept.
func (v *Volumes) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept = nil
	return nil
}
