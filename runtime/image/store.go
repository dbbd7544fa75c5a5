// Package image owns the images of this machine: it keeps their blobs, names
// and unpacked layers, brings them in from archives and from other machines,
// and hands out root file systems. It stands on containerd's content store,
// metadata and overlay snapshotter, used as libraries in one namespace.
//
// What a name means in the cluster, which machine to ask for an image and when
// to collect garbage is its owner's to say; mounting what Mounts returns is the
// driver's.
package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
)

const (
	namespace   = "skein"
	snapshotter = "overlayfs"

	// unpackPrefix begins the keys of snapshots into which a layer is being
	// unpacked, which no caller can choose.
	unpackPrefix = "unpack/"

	lockWait = 10 * time.Second
)

// Options are what a Store needs.
type Options struct {
	// Dir holds everything, readable by root alone. One store at a time opens
	// it, on a file system that overlay can stand on.
	Dir string
	// UnpackCommand starts a process that calls UnpackMain with the arguments
	// after those given here.
	UnpackCommand []string
	Limits        Limits // zero fields take their defaults
	// Stall is for how long a peer may send nothing before it is given up.
	// Zero: 30 s.
	Stall time.Duration
	// Run names the run of the machine, from its start to its end. Empty: the
	// kernel's boot id.
	Run    string
	Logger *slog.Logger
}

// A Store keeps images. All its methods may be called at the same time.
type Store struct {
	opt    Options
	log    *slog.Logger
	bridge *log.Entry

	bolt      *bolt.DB
	db        *metadata.DB
	content   content.Store
	images    images.Store
	leases    leases.Manager
	snapshots snapshots.Snapshotter
	backend   snapshots.Snapshotter // under snapshots; ours to close
	blobs     content.Store         // under content
	doubts    *doubts               // nil: none
	growing   sync.Map              // by digest: *growth, of layers that are coming in

	turns keyed
	slots chan struct{} // one for each layer being unpacked
	again time.Duration // before the second attempt at a blob
	serie atomic.Uint64 // of ingests whose digest is not known beforehand

	asked, collected atomic.Uint64 // collections, see Collect
}

// Open opens the store in opt.Dir, making it if need be, and takes away what an
// earlier process left half done.
func Open(opt Options) (_ *Store, err error) {
	if !filepath.IsAbs(opt.Dir) {
		return nil, fmt.Errorf("the folder %q is not absolute", opt.Dir)
	}
	opt.Limits = opt.Limits.withDefaults()
	if opt.Stall == 0 {
		opt.Stall = 30 * time.Second
	}
	s := &Store{opt: opt, log: opt.Logger, bridge: Bridge(opt.Logger), slots: make(chan struct{}, 2), again: againAfter}
	for _, dir := range []string{opt.Dir, s.unpackDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(opt.Dir, 0o700); err != nil {
		return nil, err
	}
	if strings.ContainsAny(opt.Dir, `,:\`) {
		return nil, fmt.Errorf("the folder %q: overlay takes no comma, colon or backslash in a path", opt.Dir)
	}
	if err := overlayutils.Supported(opt.Dir); err != nil {
		return nil, fmt.Errorf("overlay does not work on %s: %w", opt.Dir, err)
	}
	s.bolt, err = bolt.Open(filepath.Join(opt.Dir, "meta.db"), 0o600, &bolt.Options{Timeout: lockWait, NoStatistics: true})
	if err != nil {
		return nil, fmt.Errorf("open the metadata in %s (does another agent use it?): %w", opt.Dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	blobs, err := local.NewStore(filepath.Join(opt.Dir, "content"))
	if err != nil {
		return nil, fmt.Errorf("open the content store: %w", err)
	}
	s.backend, err = overlay.NewSnapshotter(filepath.Join(opt.Dir, "snapshots"), overlay.AsynchronousRemove)
	if err != nil {
		return nil, fmt.Errorf("open the snapshotter: %w", err)
	}
	s.blobs = blobs
	s.db = metadata.NewDB(s.bolt, blobs, map[string]snapshots.Snapshotter{snapshotter: s.backend})
	ctx, cancel := context.WithTimeout(s.context(context.Background()), time.Minute)
	defer cancel()
	if err := s.db.Init(ctx); err != nil {
		return nil, fmt.Errorf("prepare the metadata: %w", err)
	}
	s.content, s.snapshots = s.db.ContentStore(), s.db.Snapshotter(snapshotter)
	s.images, s.leases = metadata.NewImageStore(s.db), metadata.NewLeaseManager(s.db)
	if err := s.recover(ctx); err != nil {
		return nil, fmt.Errorf("clear what was left half done: %w", err)
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("see how the last run ended: %w", err)
	}
	return s, nil
}

// Close lets go of the store's files. Nothing else of it may run or be called
// afterwards.
func (s *Store) Close() error {
	errs := []error{s.end()}
	if s.backend != nil {
		errs = append(errs, s.backend.Close())
	}
	return errors.Join(append(errs, s.bolt.Close())...)
}

func (s *Store) unpackDir() string { return filepath.Join(s.opt.Dir, "unpack") }

// recover ends the leases and the unpacking of a process that is no more.
func (s *Store) recover(ctx context.Context) error {
	held, err := s.leases.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range held {
		if err := s.leases.Delete(ctx, l); err != nil {
			return err
		}
	}
	var broken []string
	err = s.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if strings.HasPrefix(info.Name, unpackPrefix) {
			broken = append(broken, info.Name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, key := range broken {
		if err := s.snapshots.Remove(ctx, key); err != nil {
			return err
		}
	}
	if len(held)+len(broken) > 0 {
		if _, err := s.db.GarbageCollect(ctx); err != nil {
			return err
		}
	}
	return s.clearFolders(ctx)
}

// clearFolders takes away folders of snapshots whose record was never written: each
// would be in the way of the next one, which gets the same number.
func (s *Store) clearFolders(ctx context.Context) error {
	c, ok := s.backend.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	err := c.Cleanup(ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	// There is no record at all, nor a place for them yet.
	all, err := filepath.Glob(filepath.Join(s.opt.Dir, "snapshots", "snapshots", "*"))
	for _, dir := range all {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// context gives containerd's packages what they look for in a context.
func (s *Store) context(ctx context.Context) context.Context {
	return log.WithLogger(namespaces.WithNamespace(ctx, namespace), s.bridge)
}
