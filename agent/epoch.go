package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/consensus"
)

// What the data directory keeps of the cluster's epoch. The file beside the
// stores is the newest epoch that this node ever heard of, and it never obeys an
// older one again; the file among them is that of the log that they hold.
const (
	epochFile   = "cluster-epoch"
	raftDir     = "raft"
	reformedDir = "raft.reformed" // of a recovery, until it is complete
)

func asideDir(e identity.Epoch) string {
	return raftDir + ".epoch-" + strconv.FormatUint(e.Generation, 10)
}

// settleEpoch makes this node speak for the newest epoch that it knows. A log of
// an older epoch is put aside: what it holds binds nobody any more, and its
// holder is a newcomer.
func settleEpoch(dataDir string, id *identity.Identity) (identity.Epoch, error) {
	fence := filepath.Join(dataDir, epochFile)
	if err := finishReform(dataDir, id); err != nil {
		return identity.Epoch{}, err
	}
	epoch, err := id.LoadEpoch(fence)
	if err != nil {
		return epoch, err
	}
	raft := filepath.Join(dataDir, raftDir)
	own, err := id.LoadEpoch(filepath.Join(raft, epochFile))
	if err != nil {
		return epoch, err
	}
	switch {
	case own.Newer(epoch): // the power failed in the middle of a recovery
		epoch = own
		if err := identity.SaveEpoch(fence, epoch); err != nil {
			return epoch, fmt.Errorf("keep the cluster's epoch: %w", err)
		}
	case epoch.Newer(own):
		if err := putAside(dataDir, own); err != nil {
			return epoch, err
		}
		if err := os.MkdirAll(raft, 0o700); err != nil {
			return epoch, fmt.Errorf("begin an empty log: %w", err)
		}
		if err := identity.SaveEpoch(filepath.Join(raft, epochFile), epoch); err != nil {
			return epoch, fmt.Errorf("keep the cluster's epoch: %w", err)
		}
	}
	id.SetEpoch(epoch)
	return epoch, nil
}

// putAside takes the stores of an older epoch out of the way. One of each epoch
// is kept, for a person who misses something.
func putAside(dataDir string, own identity.Epoch) error {
	raft, aside := filepath.Join(dataDir, raftDir), filepath.Join(dataDir, asideDir(own))
	if _, err := os.Stat(raft); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("remove an older log: %w", err)
	}
	if err := os.Rename(raft, aside); err != nil {
		return fmt.Errorf("put the log of an older epoch aside: %w", err)
	}
	return consensus.SyncDirs(dataDir)
}

// finishReform completes a recovery that was cut off between its two renames:
// its stores are whole once the epoch lies among them. Those that are not are
// removed.
func finishReform(dataDir string, id *identity.Identity) error {
	fresh := filepath.Join(dataDir, reformedDir)
	epoch, err := id.LoadEpoch(filepath.Join(fresh, epochFile))
	if err != nil {
		return err
	}
	raft := filepath.Join(dataDir, raftDir)
	_, serr := os.Stat(raft)
	if epoch.Generation == 0 || serr == nil {
		if err := os.RemoveAll(fresh); err != nil {
			return fmt.Errorf("remove an unfinished recovery: %w", err)
		}
		return nil
	}
	if err := os.Rename(fresh, raft); err != nil {
		return fmt.Errorf("finish the recovery: %w", err)
	}
	return consensus.SyncDirs(dataDir)
}

// errNewcomer ends an agent that has learned of a newer epoch. Its keeper starts
// another, which enters that epoch; the containers go on.
var errNewcomer = errors.New("the cluster was re-formed without this node: starting again as a newcomer to it")

const (
	epochPatience = 3 * time.Second // of one question
	epochPause    = 2 * time.Second // between two questions to one address
)

// doubt is told of an address where somebody refuses to speak to this node.
func (a *Agent) doubt(addr string) {
	select {
	case a.doubts <- addr:
	default: // it is refused again, and again doubted
	}
}

// watchEpoch asks those who refuse to speak to this node whether the cluster has
// been re-formed, or this node removed from it, and ends the agent if so. For the
// first it takes no word but the CA's, for the second that of a leader which the
// cluster has enrolled.
func (a *Agent) watchEpoch(ctx context.Context) error {
	asked := map[string]time.Time{}
	for {
		var addr string
		select {
		case <-ctx.Done():
			return nil
		case addr = <-a.doubts:
		}
		if time.Since(asked[addr]) < epochPause {
			continue
		}
		if len(asked) > 1000 {
			clear(asked)
		}
		asked[addr] = time.Now()
		leader, err := a.ask(ctx, addr)
		if err == nil && leader != "" {
			_, err = a.ask(ctx, leader)
		}
		if err != nil {
			return err
		}
	}
}

// ask asks one node. It returns the address of the leader where that is another,
// and an error if this agent must end.
func (a *Agent) ask(ctx context.Context, addr string) (leader string, err error) {
	ask, cancel := context.WithTimeout(ctx, epochPatience)
	word, err := a.id.AskEpoch(ask, addr, a.cfg.World.Network.Dial)
	cancel()
	if err != nil {
		a.log.Debug("cannot learn what a node that refuses knows", "addr", addr, "err", err)
		return "", nil // it is asked again when it refuses again
	}
	own := a.id.Epoch()
	switch epoch := word.Epoch; {
	case epoch.Newer(own):
		if err := identity.SaveEpoch(filepath.Join(a.cfg.DataDir, epochFile), epoch); err != nil {
			a.log.Error("cannot keep the cluster's new epoch", "err", err)
			return "", nil
		}
		a.log.Warn("the cluster was re-formed", "by", epoch.Node, "at", epoch.At, "epoch", epoch.Generation, "was", own.Generation)
		return "", errNewcomer
	case epoch.Generation == own.Generation && epoch.Lineage != own.Lineage:
		a.log.Error("the cluster was re-formed twice side by side: run \"skeind recover\" again where it shall go on", "addr", addr, "epoch", epoch.Lineage, "own", own.Lineage)
	case own.Newer(epoch): // what it says binds nobody any more
	case word.Removed && a.enrolled(word.By, word.Key) == nil:
		return "", a.removed(word.By)
	default:
		return word.Leader, nil
	}
	return "", nil
}
