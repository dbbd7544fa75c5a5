package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/disk"
	"github.com/skein-dev/skein/runtime/image"
	"github.com/skein-dev/skein/runtime/image/registry"
	"github.com/skein-dev/skein/runtime/runc"
	"github.com/skein-dev/skein/runtime/volume"
)

// A World is the machine around an agent. What is nil is made for the machine
// that this program runs on; tests hand in another.
type World struct {
	Network Network
	// Stores opens what raft keeps in a directory.
	Stores func(dir string, log *slog.Logger) (*consensus.Stores, error)
	// Driver opens what runs containers here.
	Driver func(Config) (Driver, error)
	// Images opens where their root file systems come from.
	Images func(Config) (ImageStore, error)
	// Volumes opens what makes the folders that Pods mount.
	Volumes func(Config) (VolumeStore, error)
	// Registry returns how to open an image at its registry.
	Registry func(Config) OpenRepository
	// Machine reads what this machine is and has.
	Machine func(Config) (node.Machine, error)
	// Resolv reads a resolv.conf(5) by which names are looked up as this machine
	// does: from its own network, or else from that of a Pod.
	Resolv func(own bool) string
	// Wires opens this machine's part of the cluster's network. upstreams lists whom it
	// asks for names that are not the cluster's.
	Wires func(cfg Config, upstreams func() []string, log *slog.Logger) (Wires, error)
	// Disk is what holds the data directory.
	Disk func(Config) (disk.Medium, error)
	// Load returns how to measure how busy it is.
	Load func(Config) func() (gossip.Load, error)
	// Now reads the wall clock. It may jump: no duration is measured with it.
	Now func() time.Time
}

// A Network reaches other machines, and is reached by them.
type Network interface {
	Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error)
	ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error)
	// ListenLocal opens the socket of this machine's root at a path.
	ListenLocal(ctx context.Context, path string) (net.Listener, error)
	// Dial opens a stream; network is "tcp".
	Dial(ctx context.Context, network, addr string) (net.Conn, error)
	// DialPacket opens a datagram socket that is told of refusals.
	DialPacket(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Knock tells whether the kernel of a machine takes or refuses a stream.
	Knock(ctx context.Context, addr netip.AddrPort) bool
}

// A Driver runs containers, and notices what becomes of them until ctx ends.
type Driver interface {
	container.Driver
	Run(ctx context.Context) error
}

// An OpenRepository prepares to read the image that ref names, with these
// credentials or the machine's own. It asks nobody anything yet.
type OpenRepository func(ctx context.Context, ref string, keys ...registry.Keys) (Repository, error)

// A Repository is one image at a registry; registry.Source is the real one.
type Repository interface {
	image.Fetcher
	Host() string // of the registry
	Resolve(ctx context.Context) (image.Descriptor, error)
	Close()
}

// A VolumeStore makes the volumes of one machine; volume.Store is the real one.
type VolumeStore interface {
	node.Volumes
	Pods() ([]string, error)
	// Close forgets all that is kept in memory. It is for a machine whose Pods are
	// gone.
	Close() error
}

// An ImageStore holds the images of one machine; image.Store is the real one.
type ImageStore interface {
	Resolve(ctx context.Context, ref string) (image.Descriptor, error)
	Has(ctx context.Context, digest string) bool
	Fetch(ctx context.Context, ref string, desc image.Descriptor, from image.Fetcher, watch *image.Progress) error
	Config(ctx context.Context, digest string) (image.Config, error)
	Mounts(ctx context.Context, key, digest string) ([]container.Mount, error)
	Release(ctx context.Context, key string) error
	Used(ctx context.Context, key string, entries int) (bytes int64, over bool, err error)
	Snapshots(ctx context.Context) ([]string, error)
	Collect(ctx context.Context) error
	Verify(ctx context.Context) error
	List(ctx context.Context) ([]image.Image, error)
	Blobs(ctx context.Context) (digests []string, err error)
	Import(ctx context.Context, r io.Reader) ([]image.Imported, error)
	Use(ctx context.Context, ref string, now time.Time) error
	Remove(ctx context.Context, ref string) error
	Parts(ctx context.Context, digest string) ([]image.Descriptor, error)
	BeginPush(ctx context.Context, entries []image.Entry) (*image.Push, error)
	FollowBlob(ctx context.Context, digest string, offset int64) (io.ReadCloser, int64, error)
	Close() error
}

// complete fills in the real world where no other was handed in.
func (w *World) complete(log *slog.Logger) {
	if w.Now == nil {
		w.Now = time.Now
	}
	if w.Network == nil {
		w.Network = kernelNetwork{}
	}
	if w.Stores == nil {
		w.Stores = consensus.OpenStores
	}
	if w.Driver == nil {
		w.Driver = func(cfg Config) (Driver, error) { return openRunc(cfg, log) }
	}
	if w.Images == nil {
		w.Images = func(cfg Config) (ImageStore, error) {
			return image.Open(image.Options{
				Dir: filepath.Join(cfg.DataDir, "images"), UnpackCommand: cfg.UnpackArgs, Logger: log,
			})
		}
	}
	if w.Volumes == nil {
		w.Volumes = func(cfg Config) (VolumeStore, error) {
			return volume.Open(volume.Config{StateDir: volumeDirs(cfg)[0], RunDir: volumeDirs(cfg)[1]})
		}
	}
	if w.Registry == nil {
		w.Registry = func(cfg Config) OpenRepository { return openRegistry(cfg, log) }
	}
	if w.Machine == nil {
		w.Machine = machine
	}
	if w.Resolv == nil {
		w.Resolv = machineResolv
	}
	if w.Wires == nil {
		w.Wires = openWires
	}
	if w.Disk == nil {
		w.Disk = func(cfg Config) (disk.Medium, error) { return disk.Folder(cfg.DataDir) }
	}
	if w.Load == nil {
		w.Load = func(cfg Config) func() (gossip.Load, error) {
			return gossip.NewSampler(os.DirFS("/proc"), diskUse(cfg.DataDir)).Sample
		}
	}
}

// openRunc opens the runtime of this machine: runc, as it is carried.
func openRunc(cfg Config, log *slog.Logger) (Driver, error) {
	bytes, err := cfg.Runc()
	if err != nil {
		return nil, fmt.Errorf("carry out runc: %w", err)
	}
	program, err := runc.Seal("runc", bytes)
	if err != nil {
		return nil, fmt.Errorf("carry out runc: %w", err)
	}
	return runc.New(runc.Config{
		Program:      program,
		StateDir:     filepath.Join(cfg.DataDir, "containers"),
		RunDir:       cfg.RunDir,
		KeeperDir:    cfg.KeeperDir,
		CgroupParent: cfg.CgroupParent,
		Volumes:      volumeDirs(cfg),
		SeccompDir:   cfg.SeccompDir,
		UsersDir:     cfg.UsersDir,
		Holder:       cfg.Holder,
		CopyCommand:  cfg.CopyArgs,
		Logger:       log,
	})
}

// volumeDirs are where the volumes of Pods are: those on disk, and those in memory.
func volumeDirs(cfg Config) []string {
	return []string{filepath.Join(cfg.DataDir, "volumes"), filepath.Join(cfg.RunDir, "volumes")}
}

// kernelNetwork is this machine's own.
type kernelNetwork struct{}

func (kernelNetwork) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	return identity.ListenTCP(ctx, addr.String())
}

func (kernelNetwork) ListenPacket(ctx context.Context, addr netip.AddrPort) (net.PacketConn, error) {
	return new(net.ListenConfig).ListenPacket(ctx, "udp", addr.String())
}

func (kernelNetwork) ListenLocal(ctx context.Context, path string) (net.Listener, error) {
	return socket(ctx, path)
}

func (kernelNetwork) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return identity.TCPDialer()(ctx, network, addr)
}

func (kernelNetwork) DialPacket(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "udp", addr.String())
}

func (kernelNetwork) Knock(ctx context.Context, addr netip.AddrPort) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err == nil {
		_ = conn.Close() // it was only a question
		return true
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// openRegistry joins the registry's client with what the operator says of it.
func openRegistry(cfg Config, log *slog.Logger) OpenRepository {
	opt := registry.Options{ConfigDir: cfg.RegistryConfig, Dial: cfg.RegistryDial, Logger: log}
	if cfg.RegistryKeys != "" {
		opt.Keys = registry.NewFile(cfg.RegistryKeys)
	}
	client := registry.New(opt)
	return func(ctx context.Context, ref string, keys ...registry.Keys) (Repository, error) {
		return client.Open(ctx, ref, keys...)
	}
}
