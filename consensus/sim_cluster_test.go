package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skein-dev/skein/consensus/consensustest"
	"github.com/skein-dev/skein/consensus/consensustest/history"
	"github.com/skein-dev/skein/consensus/state"
)

// form makes a cluster of three voters and some that have no vote.
func (s *simulation) form(size int) {
	for i := range size {
		name := fmt.Sprint("n", i+1)
		m := &simMachine{sim: s, name: name, disk: consensustest.NewDisk(s.seed*100 + uint64(i))}
		m.disk.Pace(3 * time.Millisecond)
		if s.lazy && i == 1 {
			m.disk.Lazy()
		}
		s.nodes = append(s.nodes, m)
		m.start(i == 0)
	}
	for i, m := range s.nodes[1:] {
		s.within(20*time.Second, "member "+m.name, func() bool {
			l := s.leader()
			if l == nil {
				return false
			}
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if i < 2 {
				return l.AddVoter(ctx, m.name, 0) == nil
			}
			return l.AddNonvoter(ctx, m.name, 0) == nil
		})
	}
}

// leader is who believes that it leads, of the newest term.
func (s *simulation) leader() (found *simLife) {
	term := uint64(0)
	for _, m := range s.nodes {
		if l := m.alive(); l != nil && l.IsLeader() && l.Term() >= term {
			found, term = l, l.Term()
		}
	}
	return found
}

func (s *simulation) within(d time.Duration, what string, so func() bool) bool {
	for end := time.Now().Add(d); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.fail("not within %v: %s", d, what)
			return false
		}
	}
	return true
}

// recover ends all faults and checks that all is well, and that nothing that was
// acknowledged is gone.
func (s *simulation) recover(users *simUsers) {
	s.heal()
	for _, m := range s.nodes {
		m.start(false)
	}
	time.Sleep(3 * time.Second)
	users.stop()
	s.parts.Wait()
	var index uint64
	ok := s.within(60*time.Second, "a leader that confirms", func() bool {
		l := s.leader()
		if l == nil {
			return false
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var err error
		index, err = l.ReadIndex(ctx)
		return err == nil
	})
	if !ok {
		return
	}
	for key := range simKeys {
		users.read(0, s.leader(), fmt.Sprint("k", key))
	}
	leader := s.leader()
	want := leader.Store().List(state.AllKinds, "", "")
	for _, m := range s.nodes {
		s.within(60*time.Second, m.name+" knows all", func() bool { return m.alive() != nil && m.alive().Store().Index() >= index })
		copied := history.NewStream(m.name, nil)
		err := errors.Join(
			copied.Told(state.Batch{Reset: true, Index: index + 1<<20, Puts: m.alive().Store().List(state.AllKinds, "", "")}),
			copied.Equal(want))
		if err != nil {
			s.fail("stores differ: %v", err)
		}
	}
	users.settle(leader, want)
}

func (s *simulation) heal() {
	s.net.Heal()
	for _, m := range s.nodes {
		m.disk.Heal()
	}
}
