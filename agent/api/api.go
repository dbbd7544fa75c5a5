// Package api owns the doors of an agent: what people and other agents may ask,
// who they are, and what they are told when it does not work. It decides
// nothing about Pods: it validates, authorises, writes to the store, and passes
// on to the leader what only the leader can do.
package api

import (
	"context"
	"crypto"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Consensus is the agreed state and the way to change it.
type Consensus interface {
	Store() *state.Store
	Commit(ctx context.Context, txn *logv1.Txn) (uint64, error)
	Confirm(ctx context.Context) error
	IsLeader() bool
	Leader() string
	LeaderChanged() <-chan struct{}
	Contact() time.Time
	CaughtUp() bool
	Members() ([]consensus.Member, uint64, error)
	Remove(ctx context.Context, name string, prevIndex uint64) error
	TransferLeadership(ctx context.Context, name string) error
}

// Duties is the leader's half of this agent, which hears what nodes say of
// each other.
type Duties interface {
	Suspect(reporter string, report *skeinv1.SuspectRequest)
	StreamOpened(node string)
	StreamClosed(node string)
	Heard(node string) // a report of its own came in
	// Lease grants a node leases of its own Pods, by uid.
	Lease(ctx context.Context, node string, pods []string) (granted []string, err error)
	// Acked hears up to where a node has let go of endpoints that go, and Released
	// waits for all to have let go of one Pod.
	Acked(node string, index uint64)
	Released(ctx context.Context, key state.Key, uid string) (late []string, err error)
	Tell(event *corev1.Event) // an event about one of its Pods
}

// Peers reaches other agents.
type Peers interface {
	Client(node string) skeinv1connect.PeerServiceClient
	Inside(node string) skeinv1connect.InsidePeerServiceClient
	Layers(node string) skeinv1connect.LayerServiceClient
	Images(node string) skeinv1connect.ImagePeerServiceClient
	Transport() http.RoundTripper // of URLs http://<node>/…
	Addr(node string) (netip.AddrPort, bool)
	// Votes tells whether a node votes, for an agent that takes no part in raft.
	Votes(node string) bool
	// Probe tries to reach a node by fresh datagrams.
	Probe(ctx context.Context, node string, addr netip.AddrPort, epoch uint64) skeinv1.ProbeResult
	// Health is what gossip says of every node, by name.
	Health() map[string]Health
}

// Health is what a node says of itself by gossip, and what others say of it.
type Health struct {
	State    string // alive, suspect, dead
	Voter    bool
	CPU      float64
	Memory   float64 // used, of all, 0…1
	Disk     float64
	Pressure string // what it is short of, or empty
	Seen     time.Time
}

// Pods reaches the Pods that run on this machine. What is not there is an error
// that wraps NotFound.
type Pods interface {
	PodLogs(ctx context.Context, req *skeinv1.PodLogsRequest, send func(*skeinv1.LogsResponse) error) error
	PodExec(ctx context.Context, req ExecRequest) (int, error)
}

// ExecRequest is a program to run in a container on this machine.
type ExecRequest struct {
	UID       string
	Container string
	Command   []string
	Env       []string
	TTY       bool
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	Size      *skeinv1.TerminalSize // of the terminal as the program begins; nil: not known
	Resize    <-chan *skeinv1.TerminalSize
}

// Images is this machine's store of images.
type Images interface {
	// Import keeps an archive and tells what it held.
	Import(ctx context.Context, r io.Reader) ([]object.ImageSpec, error)
	// Blob reads a piece of an image from an offset on, also one that is coming in.
	Blob(ctx context.Context, digest string, offset int64) (r io.ReadCloser, size int64, err error)
	// Find answers for the desk of a blob that is here.
	Find(node string, req *skeinv1.FindBlobRequest) *skeinv1.FindBlobResponse
}

// Voting is what a node holds so that it may vote.
type Voting interface {
	// Accept keeps what only voters may know.
	Accept(sealingKey []byte) error
	// Authority opens the cluster's CA out of the log. It needs the sealing key.
	Authority(ctx context.Context) (*identity.Authority, error)
}

// Config is what a Server needs.
type Config struct {
	Name      string
	Version   string
	Versions  *skeinv1.VersionResponse
	Consensus Consensus
	Duties    Duties
	Peers     Peers
	Pods      Pods
	Inside    Inside
	Wires     Wires
	Images    Images
	Holdings  Holdings
	// Pulls tells of images that are on their way here, and when one begins or
	// ends; nil: none ever.
	Pulls  func() (pulls []*skeinv1.ImagePull, changed <-chan struct{})
	Voting Voting
	Sealer object.Sealer  // of Secrets; nil: there can be none
	Format func() uint32  // newest that may be written, see object.Format; nil: any
	Copy   Copy           // nil where there is none
	Brakes func() []Brake // that the leader holds here; nil: none
	// Pressure names what this machine is short of now, by the type of the
	// condition that says so; nil: nothing.
	Pressure func() map[string]string
	Cluster  Cluster
	Now      func() time.Time // the wall clock, for what others are told; nil: time.Now
	UID      func() string
	Random   io.Reader
	Logger   *slog.Logger
}

// A Brake is something that the leader holds back so that one trouble does not
// become another.
type Brake struct {
	Name  string    `json:"name"`           // verdicts, moves, node or new-leader
	Node  string    `json:"node,omitempty"` // of which it is held
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	Open  bool      `json:"open"` // it may be held for longer than that
	Why   string    `json:"why"`
}

// Cluster is what a newcomer must be told.
type Cluster struct {
	ID         string
	CA         []byte // DER
	GossipKeys func() [][]byte
	// Own is this node's address as others reach it.
	Advertise func() netip.AddrPort
	// Epoch is the newest epoch of the cluster that this node obeys, as the CA
	// has signed it; nil: the first one.
	Epoch func() *skeinv1.SignedEpoch
}

// A Server answers for one agent.
type Server struct {
	cfg   Config
	log   *slog.Logger
	part  bool // it answers from a Copy
	calls *calls

	followers *atomic.Int64 // streams of nodes that are open
	assigning *assigning
}

// New returns a server; its handlers go on the listeners they are named for.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, log: cfg.Logger.With("component", "api"), calls: &calls{open: map[string]int{}}, followers: &atomic.Int64{}, assigning: &assigning{}}
}

// maxMessage bounds one message, in bytes. A manifest is refused above 4 MiB
// with a better sentence.
const maxMessage = 8 << 20

// People handles the port that people reach: a bearer token says who they are.
func (s *Server) People() http.Handler {
	return s.people(s.bearer)
}

// Socket handles the local socket, which only root can open.
func (s *Server) Socket() http.Handler {
	return s.people(func(*http.Request) (Caller, error) {
		return Caller{Name: "root@" + s.cfg.Name, Role: RoleAdmin, Local: true}, nil
	})
}

func (s *Server) people(who func(*http.Request) (Caller, error)) http.Handler {
	mux := http.NewServeMux()
	server := connect.NewServer(s.translated)
	skeinv1connect.RegisterClusterServiceHandler(server, &cluster{Server: s})
	skeinv1connect.RegisterInsideServiceHandler(server, &inside{Server: s})
	skeinv1connect.RegisterImageServiceHandler(server, &imager{Server: s})
	connecthttp.Mount(mux, server, connecthttp.WithReadMaxBytes(maxMessage))
	mux.HandleFunc("/", s.root)
	return s.identified(who, s.routed(mux))
}

// root answers what is no call.
func (s *Server) root(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, "skein "+s.cfg.Version+", node "+s.cfg.Name+". Reach it with the skein command line.\n") // the client may be gone
}

// Node handles the port of agents: their certificate has said who they are.
// It also takes the calls of people that another agent passes on.
func (s *Server) Node() http.Handler {
	mux := http.NewServeMux()
	server := connect.NewServer(s.translated)
	skeinv1connect.RegisterPeerServiceHandler(server, &peer{Server: s})
	skeinv1connect.RegisterSourceServiceHandler(server, &sources{Server: s})
	skeinv1connect.RegisterInsidePeerServiceHandler(server, &insidePeer{Server: s})
	skeinv1connect.RegisterImagePeerServiceHandler(server, &imagePeer{Server: s})
	skeinv1connect.RegisterLayerServiceHandler(server, &layer{Server: s})
	connecthttp.Mount(mux, server, connecthttp.WithReadMaxBytes(maxMessage),
		connecthttp.WithCompressors()) // the same goes to each of a thousand nodes, and to compress it costs more than all else

	forwarded := http.NewServeMux()
	people := connect.NewServer(s.translated)
	skeinv1connect.RegisterClusterServiceHandler(people, &cluster{Server: s})
	skeinv1connect.RegisterInsideServiceHandler(people, &inside{Server: s})
	skeinv1connect.RegisterImageServiceHandler(people, &imager{Server: s})
	connecthttp.Mount(forwarded, people, connecthttp.WithReadMaxBytes(maxMessage))
	mux.Handle("/"+skeinv1connect.ClusterServiceName+"/", s.identified(s.passedOn, s.arrived(forwarded)))
	mux.Handle("/"+skeinv1connect.InsideServiceName+"/", s.identified(s.passedOn, s.arrived(forwarded)))
	mux.Handle("/"+skeinv1connect.ImageServiceName+"/", s.identified(s.passedOn, s.arrived(forwarded)))
	return mux
}

// Join handles the exchange that gives a machine its certificate.
func (s *Server) Join() http.Handler {
	mux := http.NewServeMux()
	server := connect.NewServer(s.translated)
	skeinv1connect.RegisterJoinServiceHandler(server, &joiner{Server: s})
	connecthttp.Mount(mux, server, connecthttp.WithReadMaxBytes(16<<10))
	return mux
}

// Verify tells whether the key of a node certificate is the one that its Node
// object names, for one of the protocols of agents.
func (s *Server) Verify(name string, key crypto.PublicKey) error { return s.verify(name, key) }

// cluster, peer and joiner are one server behind three doors: what is exported
// on each is what can be called through it.
type (
	cluster struct {
		*Server
		skeinv1connect.UnimplementedClusterServiceHandler
	}
	peer struct {
		*Server
		skeinv1connect.UnimplementedPeerServiceHandler
	}
	joiner struct {
		*Server
		skeinv1connect.UnimplementedJoinServiceHandler
	}
)
