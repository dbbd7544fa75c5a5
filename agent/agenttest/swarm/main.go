// Command swarm is a thousand machines that are not there: agents that join a
// real cluster by its real exchange, gossip, beat, observe, follow the leader and
// report, each from an address of its own, and only claim to run their Pods. It
// owns the load that a large cluster puts on its leader, for benchmarks; a whole
// agent, its runtime and its log are what the lab and package agenttest try.
//
// It wants a network namespace in which every address of -base is local
// ("ip route add local 10.214.0.0/16 dev lo") and from which the cluster can be
// reached. It prints a JSON line whenever it is further, until it is killed. After
// SIGUSR1 no machine joins any more.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/skein-dev/skein/agent/gossip"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "swarm:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	join := flag.String("join", "", "comma-separated addresses (ip:port) of the cluster's nodes")
	token := flag.String("token", "", "to join with")
	nodes := flag.Int("nodes", 1000, "how many machines, 1 to 60000")
	base := flag.String("base", "10.214.0.0", "the first machine has the next address but one")
	flag.Parse()
	first, err := netip.ParseAddr(*base)
	if err != nil {
		return fmt.Errorf("base address: %w", err)
	}
	if *nodes < 1 || *nodes > 60_000 {
		return fmt.Errorf("%d machines: it must be 1 to 60000", *nodes)
	}
	s := &swarm{
		seeds: strings.Split(*join, ","), token: *token, known: map[string]netip.AddrPort{}, on: map[string]*gossip.Gossip{},
		log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	return s.run(ctx, first.Next(), *nodes)
}

// A swarm is what its machines share: what they know of the cluster is the same
// for all of them, and is kept once.
type swarm struct {
	seeds []string
	token string
	log   *slog.Logger

	mu    sync.Mutex
	known map[string]netip.AddrPort // nodes of the cluster
	on    map[string]*gossip.Gossip // machines on the ring
	count counts
	// turned: the ring is another.
	turned bool
	ring   atomic.Pointer[gossip.Ring]
}

// counts is how far the swarm is.
type counts struct {
	Joined    int `json:"joined"`    // let in by the cluster
	Following int `json:"following"` // have the whole picture
	Reported  int `json:"reported"`  // heard by the leader
	Pods      int `json:"pods"`      // given to these machines
	Running   int `json:"running"`   // of those, told the leader that they run
}

func (s *swarm) add(change func(*counts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.count)
}

// atOnce is how many machines join at the same time, as if they were switched on
// by a script.
const atOnce = 32

func (s *swarm) run(ctx context.Context, addr netip.Addr, n int) error {
	var machines sync.WaitGroup
	defer machines.Wait()
	s.ring.Store(gossip.NewRing(nil, nil))
	machines.Go(func() { s.tell(ctx) })
	machines.Go(func() { s.runRing(ctx) })
	joining, enough := signal.NotifyContext(ctx, syscall.SIGUSR1)
	defer enough()
	slots := make(chan struct{}, atOnce)
	for i := range n {
		addr = addr.Next()
		m := &machine{swarm: s, name: fmt.Sprintf("sim-%04d", i), addr: netip.AddrPortFrom(addr, port), turn: i, mine: newPods()}
		select {
		case slots <- struct{}{}:
		case <-joining.Done():
			<-ctx.Done()
			return nil
		}
		machines.Go(func() {
			err := m.enter(joining)
			<-slots
			if err != nil && joining.Err() != nil {
				return
			}
			if err == nil {
				err = m.run(ctx)
			}
			if err != nil && ctx.Err() == nil {
				s.log.Error("a machine has failed", "node", m.name, "err", err)
			}
		})
	}
	<-ctx.Done()
	return nil
}

// tell prints the counts when they have changed.
func (s *swarm) tell(ctx context.Context) {
	out := json.NewEncoder(os.Stdout)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last counts
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		now := s.count
		s.mu.Unlock()
		if now != last {
			last = now
			_ = out.Encode(now) // nobody reads it any more: then it does not matter
		}
	}
}

func (s *swarm) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.known[name]
	return ok
}

func (s *swarm) where(name string) (netip.AddrPort, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr, ok := s.known[name]
	return addr, ok
}

func (s *swarm) meet(name string, addr netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[name] = addr
}
