package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skein-dev/skein/runtime/keeper"
)

// A machine that goes down while the store is open may have lost what it had said
// was on the disk. What was unpacked before is looked at again then, before its
// first use: its sum, made when it was unpacked, still holds, or it is unpacked
// anew. Of blobs the digest says it; a damaged one is given up, and comes again
// from where it came.

const (
	// labelSum on an unpacked layer is what sumOf said of it.
	labelSum = "skein.dev/sum"
	// runFile names the machine's run in which the store was opened and not closed.
	runFile = "open-in"
	// smallBlob bounds the documents that are verified before anything else.
	smallBlob = 1 << 20
)

// doubts are what is not verified yet, since the machine went down.
type doubts struct {
	mu     sync.Mutex
	sound  map[string]bool // layers by chain, blobs by digest
	healed int             // layers
	lost   int             // blobs
	none   bool            // all was looked at
}

func (d *doubts) over() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.none
}

func (d *doubts) isSound(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sound[name]
}

func (d *doubts) trust(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sound[name] = true
}

// start notes that the store is open in this run of the machine, and doubts all
// that is there if it was open when another run ended. Documents are verified at
// once: nothing can be said of an image without them.
func (s *Store) start(ctx context.Context) error {
	if s.opt.Run == "" {
		text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return err
		}
		s.opt.Run = strings.TrimSpace(string(text))
	}
	last, err := os.ReadFile(s.runFile())
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && string(last) == s.opt.Run:
		return keeper.WriteSynced(s.runFile(), []byte(s.opt.Run))
	case err != nil:
		return err
	}
	s.log.Info("the machine went down while its images were in use: they are verified")
	s.doubts = &doubts{sound: map[string]bool{}}
	if err := s.verifyBlobs(ctx, func(size int64) bool { return size <= smallBlob }); err != nil {
		s.log.Warn("not all could be verified at once, it goes on later", "err", err)
	}
	return nil
}

// end notes that the store was closed, unless there are doubts left.
func (s *Store) end() error {
	if s.opt.Run == "" || s.doubts != nil && !s.doubts.over() {
		return nil
	}
	return ignoreMissing(os.Remove(s.runFile()))
}

func (s *Store) runFile() string { return filepath.Join(s.opt.Dir, runFile) }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Verify looks at all that is here and in doubt, one piece after the other: blobs
// that are damaged are given up, layers unpacked anew. Without a machine that went
// down it does nothing.
func (s *Store) Verify(ctx context.Context) error {
	if s.doubts == nil {
		return nil
	}
	ctx = s.context(ctx)
	if err := s.verifyBlobs(ctx, func(int64) bool { return true }); err != nil {
		return err
	}
	list, err := s.images.List(ctx)
	if err != nil {
		return err
	}
	for _, img := range list {
		t, err := s.known(ctx, img.Target.Digest.String())
		if err == nil {
			err = s.soundLayers(ctx, t)
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Warn("an image is damaged, and is pulled again when it is asked for", "image", familiar(img.Name), "err", err)
		}
	}
	s.doubts.mu.Lock()
	healed, lost := s.doubts.healed, s.doubts.lost
	s.doubts.mu.Unlock()
	s.log.Info("images are verified", "unpacked again", healed, "blobs given up", lost)
	s.doubts.mu.Lock()
	s.doubts.none = true
	s.doubts.mu.Unlock()
	return keeper.WriteSynced(s.runFile(), []byte(s.opt.Run))
}

// verifyBlobs reads blobs of certain sizes, and gives up the damaged.
func (s *Store) verifyBlobs(ctx context.Context, which func(size int64) bool) error {
	var list []content.Info
	if err := s.content.Walk(ctx, func(info content.Info) error {
		if which(info.Size) {
			list = append(list, info)
		}
		return nil
	}); err != nil {
		return err
	}
	var gone []error
	for _, info := range list {
		if err := s.soundBlob(ctx, info.Digest); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			gone = append(gone, err)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	s.log.Warn("pieces of images are damaged, and were given up", "err", errors.Join(gone...))
	return s.Collect(ctx)
}

// soundBlob reads a blob that is in doubt. A damaged one is an error, and no more.
func (s *Store) soundBlob(ctx context.Context, d digest.Digest) error {
	if s.doubts.isSound(d.String()) {
		return nil
	}
	err := s.digestOf(ctx, d)
	var bad *InvalidError
	if !errors.As(err, &bad) {
		if err == nil {
			s.doubts.trust(d.String())
		}
		return err
	}
	s.doubts.mu.Lock()
	s.doubts.lost++
	s.doubts.mu.Unlock()
	if derr := s.content.Delete(ctx, d); derr != nil && !errdefs.IsNotFound(derr) {
		err = errors.Join(err, derr)
	}
	return err
}

func (s *Store) digestOf(ctx context.Context, want digest.Digest) error {
	r, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: want})
	if errdefs.IsNotFound(err) {
		return invalid("blob %s is gone, or was damaged and given up", want)
	}
	if err != nil {
		return err
	}
	defer r.Close()
	sum := want.Algorithm().Digester()
	if _, err := io.Copy(sum.Hash(), content.NewReader(r)); err != nil {
		return fmt.Errorf("read blob %s: %w", want, err)
	}
	if got := sum.Digest(); got != want {
		return invalid("blob %s is damaged: its digest is %s", want, got)
	}
	return ctx.Err()
}

// soundLayers sees to it that the unpacked layers of an image, as far as they are
// here, are what they were when they were unpacked.
func (s *Store) soundLayers(ctx context.Context, t *tree) error {
	if s.doubts == nil {
		return nil
	}
	parent := ""
	for i, chain := range identity.ChainIDs(append([]digest.Digest(nil), t.config.diffs...)) {
		job := layerJob{
			layer: t.layers()[i], diff: t.config.diffs[i], chain: chain.String(), parent: parent, limit: s.opt.Limits.UnpackedBytes,
		}
		if err := s.soundLayer(ctx, job); err != nil {
			return fmt.Errorf("layer %d of %d: %w", i+1, len(t.config.diffs), err)
		}
		parent = job.chain
	}
	return nil
}

func (s *Store) soundLayer(ctx context.Context, job layerJob) error {
	unlock, err := s.turns.lock(ctx, "chain "+job.chain)
	if err != nil {
		return err
	}
	defer unlock()
	if s.doubts.isSound(job.chain) {
		return nil
	}
	info, err := s.snapshots.Stat(ctx, job.chain)
	if errdefs.IsNotFound(err) {
		return nil // it will be unpacked
	}
	if err != nil {
		return err
	}
	want := info.Labels[labelSum]
	if want == "" { // unpacked before there were sums
		s.doubts.trust(job.chain)
		return nil
	}
	upper, lower, err := s.foldersOf(ctx, job.chain)
	if err != nil {
		return err
	}
	got, err := sumOf(upper)
	switch {
	case err == nil && got == want:
		s.doubts.trust(job.chain)
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read what was unpacked: %w", err) // the disk's own trouble
	}
	s.log.Warn("an unpacked layer is not what it was, and is unpacked again", "digest", job.layer.Digest.String())
	if err := s.heal(ctx, job, upper, lower, want); err != nil {
		return err
	}
	s.doubts.trust(job.chain)
	s.doubts.mu.Lock()
	s.doubts.healed++
	s.doubts.mu.Unlock()
	return nil
}

// foldersOf finds where the layer of a chain is, and those below it.
func (s *Store) foldersOf(ctx context.Context, chain string) (upper string, lower []string, err error) {
	key := unpackPrefix + "look/" + chain
	mounts, err := s.snapshots.View(ctx, key, chain)
	if err != nil {
		return "", nil, fmt.Errorf("look at a layer: %w", err)
	}
	defer func() {
		if rerr := s.snapshots.Remove(context.WithoutCancel(ctx), key); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		return mounts[0].Source, nil, nil
	}
	for _, o := range mounts[0].Options {
		if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			list := strings.Split(v, ":")
			return list[0], list[1:], nil
		}
	}
	return "", nil, fmt.Errorf("no overlay: %v", mounts)
}

// heal unpacks a layer beside its folder, and puts it in its place: what stands upon
// it stays. Nothing of it is mounted, since nobody has used it in this run.
func (s *Store) heal(ctx context.Context, job layerJob, upper string, lower []string, want string) error {
	if err := s.soundBlob(ctx, job.layer.Digest); err != nil {
		return errors.Join(err, s.Collect(ctx))
	}
	fresh, old := upper+".new", upper+".old"
	if err := errors.Join(os.RemoveAll(fresh), os.RemoveAll(old)); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o755); err != nil { //nolint:gosec // the root of a container's file system
		return err
	}
	res, err := s.spawn(ctx, job, fresh, lower)
	if err == nil && res.Sum != want {
		err = invalid("it unpacks to another sum than before")
	}
	if err == nil {
		err = ignoreMissing(os.Rename(upper, old))
	}
	if err == nil {
		err = os.Rename(fresh, upper)
	}
	return errors.Join(err, os.RemoveAll(fresh), os.RemoveAll(old))
}

// sureOf is sure for the image of a digest.
func (s *Store) sureOf(ctx context.Context, digest string) error {
	if s.doubts == nil {
		return nil
	}
	t, err := s.known(ctx, digest)
	if err != nil {
		return fmt.Errorf("image %s: %w", digest, err)
	}
	return s.sure(ctx, t)
}

// sure sees to it that an image is what it was, before its first use in a run of the
// machine that follows one which ended badly.
func (s *Store) sure(ctx context.Context, t *tree) error {
	if s.doubts == nil {
		return nil
	}
	if err := s.soundLayers(ctx, t); err != nil {
		return fmt.Errorf("verify image %s: %w", t.root.Digest, err)
	}
	return nil
}
