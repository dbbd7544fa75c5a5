package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// This file and layer.go run in a process of their own, in namespaces of their
// own, whose only view of the machine is the layer on standard input, the
// folder it goes to and the layers below. What a layer does to the code that
// unpacks it stays in there.

// An unpackRequest is the last argument of that process.
type unpackRequest struct {
	Root   string   `json:"root"` // an empty folder, to become the root
	Upper  string   `json:"upper"`
	Lower  []string `json:"lower,omitempty"` // nearest first
	Diff   string   `json:"diff"`            // the digest of the layer, uncompressed
	Limits Limits   `json:"limits"`
}

// An unpackResult is what it prints.
type unpackResult struct {
	Size    int64  `json:"size"` // bytes, uncompressed
	Sum     string `json:"sum"`  // see sumOf
	Error   string `json:"error,omitempty"`
	Invalid bool   `json:"invalid,omitempty"` // the layer's fault
}

func (r unpackResult) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Invalid:
		return invalid("%s", r.Error)
	}
	return errors.New(r.Error)
}

// UnpackMain is the main function of the process that Options.UnpackCommand
// starts: it unpacks one layer and returns the exit code. The process must be
// in a mount namespace of its own.
func UnpackMain(args []string) int {
	var res unpackResult
	size, sum, err := unpackFromArgs(args)
	if err != nil {
		var bad *InvalidError
		res = unpackResult{Error: err.Error(), Invalid: errors.As(err, &bad)}
	}
	res.Size, res.Sum = size, sum
	if json.NewEncoder(os.Stdout).Encode(res) != nil || res.Error != "" {
		return 1
	}
	return 0
}

func unpackFromArgs(args []string) (size int64, sum string, err error) {
	var req unpackRequest
	if len(args) != 1 {
		return 0, "", errors.New("this command is skeind's own")
	}
	if err := json.Unmarshal([]byte(args[0]), &req); err != nil {
		return 0, "", fmt.Errorf("read the request: %w", err)
	}
	diff, err := digest.Parse(req.Diff)
	if err != nil {
		return 0, "", fmt.Errorf("read the request: %w", err)
	}
	lower, err := confine(req)
	if err != nil {
		return 0, "", fmt.Errorf("shut the unpacking in: %w", err)
	}
	if size, err = applyLayer(os.Stdin, upperDir, lower, diff, req.Limits); err != nil {
		return size, "", err
	}
	// The snapshot counts as good once its record is on the disk, so what it
	// records must be there first. The sum is made meanwhile.
	var out errgroup.Group
	out.Go(func() error { return syncFolder(upperDir) })
	out.Go(func() error {
		if sum, err = sumOf(upperDir); err != nil {
			return fmt.Errorf("read what was unpacked: %w", err)
		}
		return nil
	})
	return size, sum, out.Wait()
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("write the layer to disk: %w", err)
	}
	return nil
}

// upperDir is where a confined process finds the folder to unpack to.
const upperDir = "/upper"

// confine leaves this process nothing but the folders of req to see, those
// below read-only, and returns where they are now.
func confine(req unpackRequest) (lower []string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("leave the machine's mounts: %w", err)
	}
	if err := unix.Mount("skein-unpack", req.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m,mode=0700"); err != nil {
		return nil, fmt.Errorf("mount a root: %w", err)
	}
	const guard = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := bind(req.Upper, req.Root+upperDir, guard); err != nil {
		return nil, err
	}
	for i, from := range req.Lower {
		at := filepath.Join("/lower", strconv.Itoa(i))
		if err := bind(from, req.Root+at, guard|unix.MS_RDONLY); err != nil {
			return nil, err
		}
		lower = append(lower, at)
	}
	if err := unix.Chdir(req.Root); err != nil {
		return nil, err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return nil, fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return nil, fmt.Errorf("leave the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|guard, ""); err != nil {
		return nil, fmt.Errorf("close the root: %w", err)
	}
	return lower, restrain(req.Limits)
}

func bind(from, to string, flags uintptr) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	if err := unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("guard %s: %w", from, err)
	}
	return nil
}

// restrain bounds what this process can take from others.
func restrain(l Limits) error {
	size := uint64(max(0, l.UnpackedBytes))
	for what, most := range map[int]uint64{unix.RLIMIT_FSIZE: size, unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 64} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("limit %d: %w", what, err)
		}
	}
	// Priorities belong to threads; the group is all of this process.
	if err := unix.Setpriority(unix.PRIO_PGRP, 0, 10); err != nil {
		return fmt.Errorf("be nice: %w", err)
	}
	return nil
}

// applyLayer unpacks a layer into upper, an overlay's upper folder if there is
// anything below, and returns its size in bytes, uncompressed.
func applyLayer(r io.Reader, upper string, lower []string, want digest.Digest, l Limits) (int64, error) {
	stream, err := unpacked(r, l.UnpackedBytes, l.Ratio)
	if err != nil {
		return 0, err
	}
	defer stream.Close()
	sum := want.Algorithm().Digester()
	read := &counter{r: io.TeeReader(stream, sum.Hash())}
	check := &inspector{limits: l, root: upper}
	opts := []archive.ApplyOpt{archive.WithFilter(check.entry)}
	if len(lower) > 0 {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(lower))
	}
	if _, err := archive.Apply(context.Background(), upper, read, opts...); err != nil {
		return read.n, blame(err)
	}
	if _, err := io.Copy(io.Discard, read); err != nil { // the padding counts in the digest
		return read.n, blame(err)
	}
	if got := sum.Digest(); got != want {
		return read.n, invalid("the layer unpacks to %s, and its image says %s", got, want)
	}
	return read.n, nil
}
