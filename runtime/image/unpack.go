package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// unpack makes the layers of an image, as far as that has not happened, into
// one snapshot upon another. ctx carries the lease that keeps them. wait returns
// when a layer is here; nil: all of them are.
func (s *Store) unpack(ctx context.Context, t *tree, wait func(layer int) error, watch *Progress) error {
	parent, left := "", s.opt.Limits.UnpackedBytes
	chains := identity.ChainIDs(append([]digest.Digest(nil), t.config.diffs...))
	for i, layer := range t.layers() {
		if wait != nil {
			if err := wait(i); err != nil {
				return err
			}
		}
		watch.at(layer.Digest, StateUnpacking, layer.Size, "")
		used, err := s.unpackLayer(ctx, layerJob{
			layer: layer, diff: t.config.diffs[i], chain: chains[i].String(), parent: parent, limit: left,
		})
		if err != nil {
			return fmt.Errorf("layer %d of %d: %w", i+1, len(chains), err)
		}
		watch.at(layer.Digest, StateReady, layer.Size, "")
		left -= used
		parent = chains[i].String()
	}
	if parent == "" {
		return nil
	}
	// The configuration, and so the image, keeps its unpacked layers.
	_, err := s.content.Update(ctx, content.Info{
		Digest: t.parts[0].Digest, Labels: map[string]string{labelRefSnapshot: parent},
	}, "labels."+labelRefSnapshot)
	return err
}

// A layerJob is one layer to unpack upon parent, which is empty for the lowest.
type layerJob struct {
	layer         ocispec.Descriptor
	diff          digest.Digest
	chain, parent string
	limit         int64
}

// unpackLayer unpacks one layer, or waits for whoever does, and returns how
// many bytes it is, unpacked; of one that was there, what it takes on the disk.
func (s *Store) unpackLayer(ctx context.Context, job layerJob) (size int64, err error) {
	unlock, err := s.turns.lock(ctx, "chain "+job.chain)
	if err != nil {
		return 0, err
	}
	defer unlock()
	if there, err := s.holdSnapshot(ctx, job.chain); there || err != nil {
		u, uerr := s.snapshots.Usage(ctx, job.chain)
		return u.Size, errors.Join(err, uerr)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	key := unpackPrefix + job.chain
	mounts, err := s.snapshots.Prepare(ctx, key, job.parent)
	if errdefs.IsAlreadyExists(err) {
		// Left of one that failed, when the disk was too full to note that it is gone.
		if err = s.discard(ctx, key); err == nil {
			mounts, err = s.snapshots.Prepare(ctx, key, job.parent)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("prepare a snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.discard(ctx, key))
		}
	}()
	began := time.Now()
	upper, lower, err := folders(mounts)
	if err != nil {
		return 0, err
	}
	res, err := s.spawn(ctx, job, upper, lower)
	if err != nil {
		return 0, err
	}
	if err := s.snapshots.Commit(ctx, job.chain, key, snapshots.WithLabels(map[string]string{labelSum: res.Sum})); err != nil {
		return 0, fmt.Errorf("commit the snapshot: %w", err)
	}
	if s.doubts != nil {
		s.doubts.trust(job.chain)
	}
	s.log.Debug("layer unpacked", "digest", job.layer.Digest.String(), "bytes", res.Size, "in", time.Since(began))
	return res.Size, nil
}

// discard takes away a snapshot that failed, and the disk space it took: that
// may be all that its author wanted.
func (s *Store) discard(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := s.snapshots.Remove(ctx, key); err != nil {
		return fmt.Errorf("take away what was unpacked: %w", err)
	}
	return s.Collect(ctx)
}

// spawn runs the process that unpacks a layer into an overlay's upper folder, upon
// those below, nearest first.
func (s *Store) spawn(ctx context.Context, job layerJob, upper string, lower []string) (res unpackResult, err error) {
	req := unpackRequest{Root: s.unpackDir(), Upper: upper, Lower: lower, Diff: job.diff.String(), Limits: s.opt.Limits}
	req.Limits.UnpackedBytes = job.limit
	arg, err := json.Marshal(req)
	if err != nil {
		return res, err
	}
	// The content store gives readers, and this process wants a file: the path
	// is containerd's layout of a content store.
	blob, err := os.Open(filepath.Join(s.opt.Dir, "content", "blobs", "sha256", job.layer.Digest.Encoded()))
	if err != nil {
		return res, fmt.Errorf("open layer: %w", err)
	}
	defer blob.Close()
	var stdout, stderr bytes.Buffer
	argv := append(append([]string(nil), s.opt.UnpackCommand...), string(arg))
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = blob, &head{to: &stdout}, &head{to: &stderr}
	cmd.Env = []string{"GOMEMLIMIT=48MiB", "GOGC=50", "GOTRACEBACK=single"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	// Pdeathsig is the death of the thread that forked, not of the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	if jerr := json.Unmarshal(stdout.Bytes(), &res); jerr != nil {
		if err == nil {
			err = jerr
		}
		return res, errors.Join(ctx.Err(), fmt.Errorf("the unpacking process ended without an answer: %w: %.2000s", err, strings.TrimSpace(stderr.String())))
	}
	return res, res.err()
}

// folders finds where a snapshot is written and what lies below, nearest first.
func folders(mounts []mount.Mount) (upper string, lower []string, err error) {
	if len(mounts) == 1 {
		if mounts[0].Type == "bind" {
			return mounts[0].Source, nil, nil
		}
		for _, o := range mounts[0].Options {
			if v, ok := strings.CutPrefix(o, "upperdir="); ok {
				upper = v
			} else if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
				lower = strings.Split(v, ":")
			}
		}
	}
	if upper == "" || lower == nil {
		return "", nil, fmt.Errorf("no overlay: %v", mounts)
	}
	return upper, lower, nil
}

// head keeps the first bytes of what a process says.
type head struct{ to *bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	const enough = 16 << 10
	h.to.Write(p[:min(len(p), max(0, enough-h.to.Len()))])
	return len(p), nil
}
