package consensus

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/consensus/consensustest"
	"github.com/skein-dev/skein/consensus/consensustest/history"
)

var (
	simSeeds = flag.Uint64("sim.seeds", 60, "how many seeds the simulation of agreement runs")
	simSeed  = flag.Uint64("sim.seed", 0, "run this seed of the simulation alone, and tell what happens; 0: many")
)

// A simulation is nodes on modelled disks and a modelled network in one bubble,
// with users, followers, and a person who changes voters, while faults strike by
// seed. The nodes, their transport and raft are the real ones.
type simulation struct {
	seed    uint64
	random  *rand.Rand
	net     *consensustest.Network
	nodes   []*simMachine
	dir     string
	agreed  *history.Agreement
	history history.Registers
	lazy    bool // a bug on purpose: one disk does not sync

	began  time.Time
	parts  sync.WaitGroup
	counts simCounts

	mu     sync.Mutex
	trace  []string
	broken []string
}

func (s *simulation) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trace = append(s.trace, fmt.Sprintf("%9.3fs ", time.Since(s.began).Seconds())+fmt.Sprintf(format, args...))
}

func (s *simulation) fail(format string, args ...any) {
	s.mu.Lock()
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
	s.mu.Unlock()
	s.say("BROKEN "+format, args...)
}

// simulate runs a seed and returns what was broken.
func simulate(t *testing.T, seed uint64, prepare ...func(*simulation)) *simulation {
	t.Helper()
	s := &simulation{
		seed: seed, random: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(),
		agreed: history.NewAgreement(),
	}
	for _, p := range prepare {
		p(s)
	}
	synctest.Test(t, func(t *testing.T) {
		s.began, s.net = time.Now(), consensustest.NewNetwork(seed)
		s.form(3 + s.random.IntN(3))
		users := s.begin()
		s.suffer(30)
		s.recover(users)
		for _, m := range s.nodes {
			m.disk.Heal()
			if l := m.alive(); l != nil {
				l.stop()
			}
			for _, l := range m.past {
				<-l.ended
				l.host.Kill()
				l.Store().Verify()
			}
		}
		time.Sleep(time.Minute) // what waits for nobody gives up
	})
	if err := s.history.Check(20 * time.Second); err != nil && !errors.Is(err, history.ErrTooLong) {
		s.fail("%v", err)
	}
	return s
}

// TestAgreementUnderFaults runs seeds of kills, losses of power with torn writes,
// slow, hanging, full and read-only disks, cut, slow and one-way links, and
// changes of voters under load; -sim.seed repeats one.
func TestAgreementUnderFaults(t *testing.T) {
	first, last := uint64(1), *simSeeds
	if *simSeed != 0 {
		first, last = *simSeed, *simSeed
	}
	var total simCounts
	var next atomic.Uint64
	next.Store(first - 1)
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= last; seed = next.Add(1) {
					t.Run(fmt.Sprint(seed), func(t *testing.T) {
						s := simulate(t, seed)
						if p := s.problems(); p != "" {
							t.Errorf("seed %d (-sim.seed=%d repeats its faults):\n%s", seed, seed, p)
						} else if *simSeed != 0 {
							t.Log(strings.Join(s.trace, "\n"))
						}
						total.add(&s.counts)
					})
				}
			})
		}
	})
	t.Logf("%d to %d: %s", first, last, total.String())
	if last > first+20 {
		for _, n := range total.all() {
			if n.n.Load() == 0 {
				t.Errorf("no %s in all of it: that shows less than it should", n.name)
			}
		}
	}
}

// problems tells what was broken, with the trace.
func (s *simulation) problems() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.broken) == 0 {
		return ""
	}
	trace := s.trace
	if len(trace) > 200 {
		trace = trace[len(trace)-200:]
	}
	return strings.Join(s.broken, "\n") + "\n" + strings.Join(trace, "\n")
}

// A disk that acknowledges what it has not written loses acknowledged writes, and
// the simulation finds that.
func TestTheSimulationFindsADiskThatDoesNotSync(t *testing.T) {
	for seed := uint64(1); seed <= 12; seed++ {
		s := simulate(t, seed, func(s *simulation) { s.lazy = true })
		if len(s.broken) > 0 {
			t.Logf("seed %d: %s", seed, s.broken[0])
			return
		}
	}
	t.Error("nothing was broken by it in 12 seeds")
}
