package consensus

import (
	"context"
	"time"
)

// A simFault is one thing that may befall the cluster, drawn as often as its
// weight.
type simFault struct {
	weight int
	strike func(*simulation)
}

var simFaults = []simFault{
	{8, func(s *simulation) { s.strike(s.pick(), "is killed", func(m *simMachine) { m.kill(false) }) }},
	{8, func(s *simulation) { s.strike(s.pick(), "loses power", func(m *simMachine) { m.kill(true) }) }},
	{8, func(s *simulation) {
		s.strike(s.leading(), "loses power, leading", func(m *simMachine) { m.kill(true) })
	}},
	{4, func(s *simulation) {
		for _, m := range s.nodes {
			if s.random.IntN(3) > 0 {
				s.strike(m, "loses power with others", func(m *simMachine) { m.kill(true) })
			}
		}
	}},
	{20, func(s *simulation) {
		for _, m := range s.nodes {
			if m.alive() == nil && s.random.IntN(2) == 0 {
				s.strike(m, "starts", func(m *simMachine) { m.start(false) })
			}
		}
	}},
	{4, func(s *simulation) {
		s.strike(s.pick(), "has a slow disk", func(m *simMachine) { m.disk.Slow(500 * time.Millisecond) })
	}},
	{4, func(s *simulation) {
		s.strike(s.leading(), "has a disk that hangs, leading", func(m *simMachine) { m.disk.Hang() })
	}},
	{3, func(s *simulation) {
		s.strike(s.pick(), "has a disk that hangs", func(m *simMachine) { m.disk.Hang() })
	}},
	{3, func(s *simulation) { s.strike(s.pick(), "has a full disk", func(m *simMachine) { m.disk.Full() }) }},
	{2, func(s *simulation) {
		s.strike(s.leading(), "has a read-only disk, leading", func(m *simMachine) { m.disk.ReadOnly() })
	}},
	{4, func(s *simulation) {
		s.strike(s.leading(), "is isolated, leading", func(m *simMachine) { s.net.Isolate(m.name) })
	}},
	{4, func(s *simulation) { s.strike(s.pick(), "is isolated", func(m *simMachine) { s.net.Isolate(m.name) }) }},
	{5, func(s *simulation) {
		to := s.pick()
		s.strike(s.pick(), "does not reach "+to.name, func(m *simMachine) { s.net.Cut(m.name, to.name) })
	}},
	{3, func(s *simulation) { s.say("links are slow and lose"); s.net.Delay(80*time.Millisecond, 0.1) }},
	{8, func(s *simulation) { s.say("disks and links are well"); s.heal() }},
	{10, func(s *simulation) { s.changeVoters() }},
	{3, func(s *simulation) { s.handOver() }},
}

func (s *simulation) strike(m *simMachine, what string, do func(*simMachine)) {
	if m == nil {
		return
	}
	s.say("%s %s", m.name, what)
	do(m)
}

func (s *simulation) leading() *simMachine {
	if l := s.leader(); l != nil {
		return l.machine
	}
	return nil
}

// suffer lets so many faults strike.
func (s *simulation) suffer(faults int) {
	sum := 0
	for _, f := range simFaults {
		sum += f.weight
	}
	for range faults {
		n := s.random.IntN(sum)
		for _, f := range simFaults {
			if n -= f.weight; n < 0 {
				f.strike(s)
				break
			}
		}
		time.Sleep(time.Duration(50+s.random.IntN(2000)) * time.Millisecond)
	}
}

// changeVoters does what a person or the voter plan may: it gives somebody a
// vote, or takes one, as long as three voters are left.
func (s *simulation) changeVoters() {
	l := s.leader()
	if l == nil {
		return
	}
	members, index, err := l.Members()
	if err != nil {
		return
	}
	voters := 0
	for _, m := range members {
		if m.Voter {
			voters++
		}
	}
	m := members[s.random.IntN(len(members))]
	remove := s.random.IntN(4) == 0
	s.parts.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		what := "gets a vote"
		switch {
		case !m.Voter && remove:
			what = "is dismissed and taken back"
			if err = l.Remove(ctx, m.Name, index); err == nil {
				time.Sleep(time.Second)
				s.within(2*time.Minute, "take back "+m.Name, func() bool {
					l := s.leader()
					if l == nil {
						return false
					}
					ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
					defer cancel()
					return l.AddNonvoter(ctx, m.Name, 0) == nil
				})
			}
		case !m.Voter:
			err = l.AddVoter(ctx, m.Name, index)
		case voters > 3 && m.Name != l.machine.name:
			what = "loses its vote"
			err = l.Demote(ctx, m.Name, index)
		default:
			return
		}
		s.say("%s %s: %v", m.Name, what, err)
		if err == nil {
			s.counts.changes.Add(1)
		}
	})
}

func (s *simulation) handOver() {
	l, to := s.leader(), s.pick()
	if l == nil || to == l.machine {
		return
	}
	s.parts.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.say("%s is to lead: %v", to.name, l.TransferLeadership(ctx, to.name))
	})
}
