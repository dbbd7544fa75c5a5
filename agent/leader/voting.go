package leader

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/reconcile"
	"github.com/skein-dev/skein/consensus"
)

// keepVoters makes the members what they should be, one change after the other.
func (r *reign) keepVoters(ctx context.Context) error {
	for {
		members, index, err := r.Voting.Members()
		if err != nil {
			return fmt.Errorf("read members: %w", err)
		}
		m, again := r.assemble(members, time.Now()).next()
		if m.act == rest {
			if again > 0 {
				return reconcile.After(again)
			}
			return nil
		}
		err = r.carry(ctx, m, index)
		if errors.Is(err, consensus.ErrMembersChanged) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s %s (%s): %w", m.act, m.name, m.why, err)
		}
		r.log.Info("members changed", "change", m.act.String(), "node", m.name, "why", m.why)
		r.events.eventf(aboutNode(m.name, r.model.uidOf(m.name)), corev1.EventTypeNormal, "Voters", "%s: %s", m.act, m.why)
		if m.act == handOver {
			return nil
		}
	}
}

func (r *reign) assemble(members []consensus.Member, now time.Time) assembly {
	a := assembly{self: r.Name, members: members, seats: map[string]seat{}}
	r.model.mu.Lock()
	defer r.model.mu.Unlock()
	for name, n := range r.model.nodes {
		s := seat{name: name, zone: n.place.Zone, never: n.never, alive: n.ready == corev1.ConditionTrue, since: now.Sub(n.since)}
		if r.Load != nil {
			s.load, _ = r.Load(name)
		}
		if p, ok := r.Voting.Progress(name); ok {
			s.caught = p.Behind <= caughtUp && now.Sub(p.LastContact) < deadVoter
			s.answers = now.Sub(p.LastContact) < answersIn
		}
		a.seats[name] = s
	}
	return a
}

func (r *reign) carry(ctx context.Context, m motion, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch m.act {
	case admit:
		if err := r.Preparer.Prepare(ctx, m.name); err != nil {
			return fmt.Errorf("hand over what voters hold: %w", err)
		}
		return r.Voting.AddNonvoter(ctx, m.name, index)
	case promote:
		return r.Voting.AddVoter(ctx, m.name, index)
	case demote:
		return r.Voting.Demote(ctx, m.name, index)
	case dismiss:
		return r.Voting.Remove(ctx, m.name, index)
	default:
		return r.Voting.TransferLeadership(ctx, m.name)
	}
}
