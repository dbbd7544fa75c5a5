package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Down removes a lab so that nothing is left of it, whatever state it is in: it
// goes by what the kernel shows, not by what was written down. Where there is no
// lab, it has nothing to do.
func Down(ctx context.Context, name string, out io.Writer) error {
	l, err := prepare(name, out)
	if err != nil {
		return err
	}
	if err := l.acquire(ctx); err != nil {
		if l.lock == nil && !isAbsent(err) {
			return err
		}
		l.state = state{Name: name} // unreadable: everything is found by its name
	}
	if l.lock == nil && !l.traces() {
		l.say("there is no lab %q", name)
		return nil
	}
	defer func() { _ = l.Close() }()
	steps := []func(context.Context) error{l.endForward, l.endNodes, l.forget, l.erase}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return fmt.Errorf("take down lab %s: %w", name, err)
		}
	}
	l.say("lab %q is gone", name)
	return nil
}

// traces tells whether anything in the kernel bears the lab's name.
func (l *Lab) traces() bool {
	spaces, err := l.namespaces()
	dirs, cerr := cgroupDirs(filepath.Join(cgroups, l.Name))
	return err != nil || cerr != nil || len(spaces)+len(dirs) > 0
}

// endNodes ends processes, then what they leave in the kernel.
func (l *Lab) endNodes(ctx context.Context) error {
	l.freeDisks(l.Nodes...)
	spaces, err := l.namespaces()
	if err != nil {
		return err
	}
	if err := exterminate(ctx, func() ([]process, error) { return residents(spaces...) }); err != nil {
		return err
	}
	if err := l.clearCgroup(ctx, filepath.Join(cgroups, l.Name)); err != nil {
		return err
	}
	if dirs, err := cgroupDirs(cgroups); err == nil {
		for _, dir := range dirs {
			_ = os.Remove(dir) // other labs may be in it
		}
	}
	datas, err := filepath.Glob(l.dataDir(&node{Name: "*"}))
	if err != nil {
		return err
	}
	for _, data := range datas {
		if err := clearUsers(data); err != nil {
			return err
		}
	}
	if err := unmountBelow(l.dir); err != nil {
		return err
	}
	if err := l.endDisks(ctx); err != nil {
		return err
	}
	for _, name := range spaces {
		if err := unpinNamespace(name); err != nil {
			return err
		}
	}
	_ = os.Remove(netnsDir) // others may have namespaces in it
	return nil
}

// erase removes the files, last of all: until then a second `down` finds its way.
func (l *Lab) erase(context.Context) error {
	if err := os.RemoveAll(l.dir); err != nil {
		return err
	}
	for dir := rootDir; dir != "/run"; dir = filepath.Dir(dir) {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			break // other labs, or this machine's own agent
		}
	}
	return nil
}
