package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// atOnce is how many containers are submitted together.
const atOnce = 300

// many submits containers to three nodes at once and times until all run, and
// starts as many by nothing but runc on the same spec, with the parallelism that
// suits it best.
func many(ctx context.Context, b *bench) error {
	ours := figure{name: fmt.Sprintf("%d containers over three nodes, submitted at once", atOnce), unit: "/s", goal: "0.5 of raw runc"}
	raw := 0.0
	for range max(b.runs/4, 1) {
		err := b.with(ctx, 3, func(l *lab) error {
			if err := l.whole(3); err != nil {
				return err
			}
			began := time.Now()
			if _, err := l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", fmt.Sprint(atOnce), "--port", "8080", "--timeout", "2m"); err != nil {
				return err
			}
			ours.values = append(ours.values, atOnce/time.Since(began).Seconds())
			if len(ours.values) > 1 {
				return nil
			}
			var err error
			raw, err = b.rawBest(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	ours.beside = fmt.Sprintf("raw runc, same spec: %s /s, ratio %s", number(raw), number(median(ours.values)/raw))
	b.tell(ours)
	return nil
}

// rawBest starts containers by runc alone, and returns the best rate of several
// parallelisms. Its spec is that of a container of the lab, with namespaces of
// its own.
func (b *bench) rawBest(ctx context.Context) (best float64, err error) {
	bundle, err := b.bundle()
	if err != nil {
		return 0, err
	}
	for _, parallel := range []int{2, 4, 8, 16} {
		rate, err := b.raw(ctx, bundle, parallel)
		if err != nil {
			return 0, err
		}
		best = max(best, rate)
	}
	return best, nil
}

// bundle writes the spec of some container of the lab for runc alone.
func (b *bench) bundle() (map[string]any, error) {
	paths, err := filepath.Glob(filepath.Join("/run/skein/lab", labName, "n1", "data", "run", "bundles", "*", "config.json"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, errors.New("find the spec of a container of the lab: there is none")
	}
	text, err := os.ReadFile(paths[0])
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, fmt.Errorf("%s: %w", paths[0], err)
	}
	linux, _ := spec["linux"].(map[string]any)
	spaces, _ := linux["namespaces"].([]any)
	for _, ns := range spaces {
		if ns, ok := ns.(map[string]any); ok {
			delete(ns, "path") // that of the Pod
		}
	}
	root, _ := spec["root"].(map[string]any)
	if path, _ := root["path"].(string); !filepath.IsAbs(path) {
		root["path"] = filepath.Join(filepath.Dir(paths[0]), path)
	}
	return spec, nil
}

// raw starts containers, so many at a time, and takes them away again.
func (b *bench) raw(ctx context.Context, spec map[string]any, parallel int) (rate float64, err error) {
	runc, err := filepath.Abs("bin/payload/runc")
	if err != nil {
		return 0, err
	}
	root := filepath.Join(b.dir, "runc")
	name := func(i int) string { return fmt.Sprintf("skein-bench-%d-%d", parallel, i) }
	for i := range atOnce {
		dir := filepath.Join(b.dir, "bundles", name(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return 0, err
		}
		spec["linux"].(map[string]any)["cgroupsPath"] = "/skein-bench/" + name(i)
		text, err := json.Marshal(spec)
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600); err != nil {
			return 0, err
		}
	}
	defer func() {
		inParallel(parallel, func(i int) {
			_ = exec.CommandContext(context.WithoutCancel(ctx), runc, "--root", root, "delete", "-f", name(i)).Run() //nolint:gosec // our own
		})
		removeGroups()
	}()
	var failed atomic.Pointer[error]
	began := time.Now()
	inParallel(parallel, func(i int) {
		cmd := exec.CommandContext(ctx, runc, "--root", root, "run", "-d", "--bundle", filepath.Join(b.dir, "bundles", name(i)), name(i)) //nolint:gosec // our own
		if err := cmd.Run(); err != nil {                                                                                                 // its output goes to the container, which would keep a pipe open
			err = fmt.Errorf("%s: %w", cmd, err)
			failed.Store(&err)
		}
	})
	rate = atOnce / time.Since(began).Seconds()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return rate, nil
}

func inParallel(n int, do func(i int)) {
	var all sync.WaitGroup
	next := make(chan int)
	for range n {
		all.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range atOnce {
		next <- i
	}
	close(next)
	all.Wait()
}

// removeGroups removes the cgroups above those that runc has removed.
func removeGroups() {
	paths, _ := filepath.Glob("/sys/fs/cgroup/*/skein-bench")
	for _, path := range append(paths, "/sys/fs/cgroup/skein-bench") {
		_ = os.Remove(path) // where there is none there is nothing to do
	}
}
