package gossip

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/agent/gossip/gossiptest"
)

const testPort = 7373

var testKey = []byte("0123456789abcdef0123456789abcdef")

// cluster is a number of nodes on one in-memory network, in one bubble.
type cluster struct {
	t     *testing.T
	net   *gossiptest.Network
	nodes []*node
	keys  [][]byte
	known sync.Map // name: true
	sign  func(name string) (func([]byte) []byte, func(string, []byte, []byte) bool)
}

type node struct {
	*Gossip
	name string
	addr netip.AddrPort
	stop func() // and wait

	mu      sync.Mutex
	reports []timedReport
	meta    Meta
}

type timedReport struct {
	Report
	at time.Time
}

func newCluster(t *testing.T, n int) *cluster {
	return newClusterWith(t, n, nil)
}

// newClusterWith gives every node a way to sign and check claims.
func newClusterWith(t *testing.T, n int, sign func(string) (func([]byte) []byte, func(string, []byte, []byte) bool)) *cluster {
	c := &cluster{t: t, net: gossiptest.New(1), keys: [][]byte{testKey}, sign: sign}
	c.net.SetDelay(500 * time.Microsecond)
	for i := range n {
		c.known.Store(nodeName(i), true)
	}
	for i := range n {
		c.nodes = append(c.nodes, c.start(nodeName(i), nodeIP(i), 1))
	}
	return c
}

func nodeName(i int) string   { return fmt.Sprintf("n%d", i+1) }
func nodeIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i / 250), byte(i%250 + 1)}) }

// start runs one node, joined through the first one.
func (c *cluster) start(name string, ip netip.Addr, epoch uint64) *node {
	h := c.net.Host(ip)
	packets, err := h.ListenPacket(testPort)
	if err != nil {
		c.t.Fatal(err)
	}
	streams, err := h.Listen(testPort)
	if err != nil {
		c.t.Fatal(err)
	}
	n := &node{name: name, addr: netip.AddrPortFrom(ip, testPort), meta: Meta{Format: 1, Load: Load{Cores: 2, CPU: 100}}}
	cfg := Config{
		Name: name, Advertise: n.addr, Epoch: epoch, Packets: packets, Streams: streams, Keys: c.keys,
		Dial:       func(ctx context.Context, _ string, a netip.AddrPort) (net.Conn, error) { return h.Dial(ctx, a) },
		DialPacket: h.DialPacket,
		Meta: func() Meta {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.meta
		},
		Known: func(name string) bool {
			_, ok := c.known.Load(name)
			return ok
		},
		Report: func(r Report) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.reports = append(n.reports, timedReport{Report: r, at: time.Now()})
		},
		Logger: quiet(),
	}
	if c.sign != nil {
		cfg.Sign, cfg.Verify = c.sign(name)
	}
	if n.Gossip, err = New(cfg); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	})
	n.stop = func() { cancel(); wg.Wait() }
	if len(c.nodes) > 0 {
		_, _ = n.Join(ctx, []string{c.nodes[0].addr.String()})
	}
	return n
}

func quiet() *slog.Logger { return testLogger(io.Discard) }

func testLogger(to io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(to, nil)) }

var nowForTests = time.Unix(1000, 0)

func (c *cluster) stopAll() {
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(n.stop)
	}
	wg.Wait()
}

// alive counts the members that n holds alive, itself among them.
func (n *node) alive() int {
	count := 0
	for _, m := range n.Members() {
		if m.State == StateAlive {
			count++
		}
	}
	return count
}

// settle waits until all hold all alive.
func (c *cluster) settle() {
	c.t.Helper()
	defer func() {
		if !c.t.Failed() {
			return
		}
		for _, n := range c.nodes {
			c.t.Logf("%s: ring of %d, strange %v, members %v", n.name, n.Ring().Len(), n.strange, n.Members())
		}
	}()
	c.eventually(10*time.Second, func() bool {
		for _, n := range c.nodes {
			if n.alive() != len(c.nodes) || n.Ring().Hash() != c.nodes[0].Ring().Hash() {
				return false
			}
		}
		return true
	}, "all see all alive")
	time.Sleep(2 * time.Second)
}

func (c *cluster) eventually(within time.Duration, ok func() bool, what string) {
	c.t.Helper()
	for start := time.Now(); time.Since(start) < within; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Fatalf("not within %v: %s", within, what)
}

func (n *node) reported() []timedReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.reports)
}

func TestTwentyNodesFindADeathWithinSixHundredMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 20)
		defer c.stopAll()
		c.settle()
		for _, victim := range []int{3, 11, 17} {
			dead := c.nodes[victim]
			c.net.PowerOff(dead.addr.Addr())
			died := time.Now()
			c.eventually(600*time.Millisecond, func() bool {
				for _, n := range c.nodes {
					m, _ := n.Member(dead.name)
					if n != dead && c.on(n) && m.State != StateSuspect {
						return false
					}
				}
				return true
			}, "everybody suspects "+dead.name)
			t.Logf("%s suspected by all after %v", dead.name, time.Since(died))
			if got := c.nodes[0].Suspects(); !slices.Contains(got, dead.name) {
				t.Errorf("Suspects() = %v, want %s among them", got, dead.name)
			}
			time.Sleep(15 * time.Second) // for memberlist to find it dead
			if m, _ := c.nodes[0].Member(dead.name); m.State != StateDead {
				t.Errorf("%s is %v after 15 s, want dead", dead.name, m.State)
			}
		}
		for _, n := range c.nodes {
			for _, r := range n.reported() {
				if c.on(n) && !slices.Contains([]string{"n4", "n12", "n18"}, r.Node) {
					t.Errorf("%s suspected %s, which lives", n.name, r.Node)
				}
			}
		}
	})
}

// on says whether a node was not powered off.
func (c *cluster) on(n *node) bool { return !slices.Contains([]string{"n4", "n12", "n18"}, n.name) }
