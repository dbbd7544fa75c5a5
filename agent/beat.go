package agent

import (
	"context"
	"net"
	"time"
)

const (
	beatEvery  = 2 * time.Second
	beatSooner = 50 * time.Millisecond // until this agent serves
)

// beat tells the keeper for as long as this agent gets on that it is well, and
// for the first time once it answers people. It takes the locks that everything
// else takes: an agent that is stuck in one falls silent, and the keeper starts
// it again.
func (a *Agent) beat(ctx context.Context) error {
	if a.cfg.Beat == nil {
		<-ctx.Done()
		return nil
	}
	serving := false
	for {
		next := beatEvery
		if serving = serving || a.answers(ctx); !serving {
			next = beatSooner
		} else {
			a.gossip.Members()
			a.compass.leads()
			if err := a.cfg.Beat(); err != nil {
				a.log.Warn("cannot tell the keeper that this agent is well", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// answers tells whether the local socket takes connections.
func (a *Agent) answers(ctx context.Context) bool {
	if a.cfg.Socket == "" {
		return true
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", a.cfg.Socket)
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only a question
	return true
}
