package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/skein-dev/skein/agent/node"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/runtime/runc"
)

// DefaultPort is where agents listen, TCP and UDP.
const DefaultPort = 7373

// Config is what the operator says of one agent, and what it is handed of the
// world.
type Config struct {
	DataDir   string // state that survives a reboot, 0700
	RunDir    string // what does not: namespaces, runc's own state
	Socket    string // of root on this machine; empty: none
	KeeperDir string // where the keeper and its agents meet
	UsersDir  string // where Pods with users of their own find their roots; anybody can walk to it
	Listen    netip.AddrPort
	Advertise netip.AddrPort // how others reach this machine; zero: found out
	Name      string
	Labels    map[string]string

	Init  bool     // make a new cluster
	Join  []string // ip:port of machines of the cluster to join
	Token string   // to join with

	SnapshotDir   string        // where to keep snapshots of the cluster, while this node votes; empty: nowhere
	SnapshotEvery time.Duration // 0: 1 h
	SnapshotKeep  int           // 0: 24

	RegistryConfig string // a folder as registry.Options.ConfigDir has it
	RegistryKeys   string // a config.json of docker's
	// RegistryDial reaches registries in the place of this machine's network; nil:
	// that network.
	RegistryDial func(ctx context.Context, network, addr string) (net.Conn, error)

	PodNetwork string // how Pods reach those of other machines, as fabric.Mode has it; empty: auto

	SeccompDir string // seccomp profiles of this machine that Pods may name; empty: none

	Reclaim node.Reclaim // when images that nothing needs are given up

	CgroupParent string // of all containers, below each controller's mount
	PodLimit     int64  // how many Pods may run here
	DemoImages   bool   // keep the images that are carried along

	Runc         func() ([]byte, error) // the program
	Holder       func() ([]byte, error) // the keeper's program, to hold processes that a Pod shares
	RuncVersion  string                 // of it, for people
	Demo         func() ([]byte, error) // the archive of the carried images
	UnpackArgs   []string               // how to start the child that unpacks layers
	CopyArgs     []string               // how to start the child that copies files in and out of containers
	Version      string
	Format       uint32 // newest that this build reads and writes; 0: DefaultFormat
	Logger       *slog.Logger
	Announcement func(string) // what the operator wants to read once
	Beat         func() error // tells the keeper that the agent is well; nil: nobody wants to know

	World World // the machine around the agent; zero: the real one
}

// An UsageError says that the configuration cannot work as it stands.
type UsageError struct{ Text, Hint string }

func (e *UsageError) Error() string { return e.Text }

// check fills in defaults and refuses what cannot work.
func (c *Config) check() error {
	if c.DataDir == "" {
		c.DataDir = "/var/lib/skein"
	}
	if c.RunDir == "" {
		c.RunDir = filepath.Join(c.DataDir, "run")
	}
	if c.KeeperDir == "" {
		c.KeeperDir = filepath.Join(c.DataDir, "keeper")
	}
	if c.UsersDir == "" {
		c.UsersDir = runc.UsersDir(c.DataDir)
	}
	if !c.Listen.IsValid() {
		c.Listen = netip.AddrPortFrom(netip.IPv4Unspecified(), DefaultPort)
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find this machine's name: %w", err)
		}
		c.Name = host
	}
	if err := object.ValidName(c.Name); err != nil {
		return &UsageError{Text: fmt.Sprintf("node name %q: %v", c.Name, err), Hint: "choose one with --name"}
	}
	if c.CgroupParent == "" {
		c.CgroupParent = "/skein"
	}
	if c.SnapshotEvery == 0 {
		c.SnapshotEvery = time.Hour
	}
	if c.SnapshotKeep == 0 {
		c.SnapshotKeep = 24
	}
	if c.SnapshotEvery < time.Second || c.SnapshotKeep < 1 {
		return &UsageError{Text: "snapshots are a second apart at the least, and one or more of them are kept"}
	}
	if c.Format == 0 {
		c.Format = DefaultFormat
	}
	switch c.PodNetwork {
	case "", "auto", "tunnel", "direct":
	default:
		return &UsageError{Text: fmt.Sprintf("--pod-network %q: it is auto, tunnel or direct", c.PodNetwork)}
	}
	if c.PodLimit == 0 {
		c.PodLimit = 250
	}
	if c.Init && len(c.Join) > 0 {
		return &UsageError{Text: "--init makes a new cluster and --join enters one: give one of them"}
	}
	if c.Logger == nil {
		return errors.New("no logger")
	}
	return nil
}
