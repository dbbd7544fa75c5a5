package runc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// maxProfile bounds a seccomp profile of this machine's, in bytes. Docker's own
// has 15 KiB.
const maxProfile = 1 << 20

// seccompActions are those that a profile may take: not SCMP_ACT_NOTIFY, which
// hands system calls to whoever listens at a socket of the machine.
var seccompActions = []specs.LinuxSeccompAction{
	specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog,
}

// localProfile reads a seccomp profile of this machine's folder, in the form of
// docker or of OCI, for a container with these capabilities. Every error wraps
// container.ErrNoProfile.
func localProfile(dir, name string, caps []string) (*specs.LinuxSeccomp, error) {
	text, err := readProfile(dir, name)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w: %w", name, err, container.ErrNoProfile)
	}
	s, err := parseProfile(text, caps)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile %q in %s: %w: %w", name, dir, err, container.ErrNoProfile)
	}
	return s, nil
}

func readProfile(dir, name string) ([]byte, error) {
	if dir == "" {
		return nil, errors.New("this machine has no folder of profiles")
	}
	if !filepath.IsLocal(name) || filepath.Clean(name) == "." {
		return nil, fmt.Errorf("not a path below %s", dir)
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("not in %s on this machine", dir)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("not in %s on this machine", dir)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir, name), Err: err}
	}
	f := os.NewFile(uintptr(fd), name) //nolint:gosec // a descriptor is not negative
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err == nil && len(text) > maxProfile {
		err = fmt.Errorf("larger than %d KiB", maxProfile>>10)
	}
	return text, err
}

// parseProfile refuses whatever it does not know: a rule that was left out could
// be the one that confines.
func parseProfile(text []byte, caps []string) (*specs.LinuxSeccomp, error) {
	var p seccomp.Seccomp
	in := json.NewDecoder(bytes.NewReader(text))
	in.DisallowUnknownFields()
	if err := in.Decode(&p); err != nil {
		return nil, err
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows after its end")
	}
	if !slices.Contains(seccompActions, p.DefaultAction) {
		return nil, fmt.Errorf("defaultAction %q is not known here", p.DefaultAction)
	}
	if p.ListenerPath != "" || p.ListenerMetadata != "" {
		return nil, errors.New("a listener is not supported")
	}
	for i, c := range p.Syscalls {
		switch {
		case c == nil || c.Name == "" && len(c.Names) == 0: //nolint:staticcheck // profiles in docker's old form have it
			return nil, fmt.Errorf("syscalls[%d] names none", i)
		case !slices.Contains(seccompActions, c.Action):
			return nil, fmt.Errorf("syscalls[%d].action %q is not known here", i, c.Action)
		}
	}
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
	s, err := seccomp.LoadProfile(string(text), spec)
	if err == nil && s == nil {
		err = errors.New("it says nothing")
	}
	return s, err
}
