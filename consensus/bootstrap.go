package consensus

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// bootstrap writes the first entry, which makes this node the only voter.
func (n *Node) bootstrap() error {
	alone := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter,
		ID:       raft.ServerID(n.cfg.Name),
		Address:  raft.ServerAddress(n.cfg.Name),
	}}}
	if err := n.unbootstrap(); err != nil {
		return err
	}
	err := raft.BootstrapCluster(n.cfg.raft(), n.logs, n.stable(), n.cfg.Snapshots, n.gate, alone)
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// unbootstrap takes back what a bootstrap left that was cut short. The library
// writes the term first and then the entry; with the term alone it would neither
// begin again nor ever stand for election. Only a bootstrap leaves the first
// term, no vote and no entry: who was ever in a configuration has it in its log
// or in a snapshot.
func (n *Node) unbootstrap() error {
	term, err1 := n.number(stableTerm)
	vote, err2 := n.number(voteTermKey)
	last, err3 := n.cfg.Log.LastIndex()
	snaps, err4 := n.cfg.Snapshots.List()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return fmt.Errorf("look for a cluster in the stores: %w", err)
	}
	if term != 1 || vote != 0 || last != 0 || len(snaps) > 0 {
		return nil
	}
	if err := n.stable().SetUint64(stableTerm, 0); err != nil {
		return fmt.Errorf("take back a bootstrap that was cut short: %w", err)
	}
	return nil
}

// voteTermKey is where raft keeps the term that it last voted in.
var voteTermKey = []byte("LastVoteTerm")

// number returns what the library keeps under a name, 0 if nothing.
func (n *Node) number(key []byte) (uint64, error) {
	value, err := n.cfg.Stable.GetUint64(key)
	if err != nil && err.Error() == "not found" { // which is how the library asks, too
		return 0, nil
	}
	return value, err //nolint:wrapcheck // the caller says what for
}
