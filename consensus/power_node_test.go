package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skein-dev/skein/consensus/state"
)

// powerNode runs a node alone on the stores in dir until use returns.
func powerNode(dir string, use func(context.Context, *Node) error) error {
	stores, err := openStores(filepath.Join(dir, "raft"), powerSegment, nil)
	if err != nil {
		return err
	}
	if err := noOrphans(dir); err != nil {
		return errors.Join(err, stores.Close())
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return errors.Join(err, stores.Close())
	}
	node, err := Open(Config{
		Name: "n1", Log: stores.Log, Stable: stores.Stable, Snapshots: stores.Snapshots, Bootstrap: true,
		Transport: NewTransport(TransportConfig{Name: "n1", Listener: listener, Dial: newNetwork().dial}),
		// Alone it need not be patient.
		HeartbeatTimeout: 20 * time.Millisecond, ElectionTimeout: 20 * time.Millisecond, LeaderLeaseTimeout: 20 * time.Millisecond,
		SnapshotInterval: 5 * time.Millisecond, SnapshotThreshold: 5, TrailingLogs: 2,
	})
	if err != nil {
		return errors.Join(err, listener.Close(), stores.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	for changed := node.LeaderChanged(); !node.IsLeader(); changed = node.LeaderChanged() { // in this order, to miss none
		select {
		case <-changed:
		case <-ctx.Done():
			cancel()
			return errors.Join(errors.New("no leader"), <-ended, stores.Close())
		}
	}
	err = use(ctx, node)
	cancel()
	return errors.Join(err, <-ended, stores.Close())
}

const powerCommits = 12

// nodeWork commits, and keeps a copy as those do who hold no log.
func nodeWork(dir string, said io.Writer) {
	file := newReplicaFile(filepath.Join(dir, "replica"), nil)
	err := powerNode(dir, func(ctx context.Context, n *Node) error {
		fmt.Fprintln(said, "commit 0")
		for i := 1; i <= powerCommits; i++ {
			if _, err := n.Commit(ctx, put(fmt.Sprint("p", i%5), fmt.Sprint(i), -1)); err != nil {
				return err
			}
			fmt.Fprintln(said, "commit", i)
			if i%3 == 0 {
				if err := file.write(n.Store()); err != nil {
					return err
				}
				fmt.Fprintln(said, "copy", i)
			}
		}
		return nil
	})
	if err != nil {
		panic(err)
	}
}

// checkNode starts a node from what is left, which must hold all that was
// promised and can go on.
func checkNode(dir string, said []string) error {
	var commits, copied int
	for _, line := range said {
		_, _ = fmt.Sscanf(line, "commit %d", &commits) // either
		_, _ = fmt.Sscanf(line, "copy %d", &copied)    // or
	}
	store := state.New()
	if _, err := newReplicaFile(filepath.Join(dir, "replica"), nil).load(store); err != nil {
		return fmt.Errorf("load the copy: %w", err)
	}
	if got := newestPod(store); got < copied || got > commits {
		return fmt.Errorf("the copy holds commit %d, want %d to %d", got, copied, commits)
	}
	return powerNode(dir, func(ctx context.Context, n *Node) error {
		if got := newestPod(n.Store()); got < commits || got > commits+1 {
			return fmt.Errorf("the newest commit is %d, %d was promised", got, commits)
		}
		_, err := n.Commit(ctx, put("after", "1", -1))
		return err
	})
}

// newestPod returns the newest commit in a store, or -1 if an older one that it
// must hold too is missing.
func newestPod(s *state.Store) int {
	newest := 0
	values := make(map[int]int)
	for i := range 5 {
		var value int
		if row, ok := s.Get(pod(fmt.Sprint("p", i))); ok {
			_, _ = fmt.Sscan(string(row.Body), &value) // 0 is in none
		}
		values[i] = value
		newest = max(newest, value)
	}
	for i := max(1, newest-4); i <= newest; i++ {
		if values[i%5] != i {
			return -1
		}
	}
	return newest
}

func TestANodeOutlivesAPowerCutAtEverySync(t *testing.T) {
	powerCuts(t, "node", 1, checkNode)
}

// A bootstrap whose power was cut had written the term and no entry.
func TestABootstrapThatWasCutShortIsDoneAgain(t *testing.T) {
	dir := t.TempDir()
	stores, err := OpenStores(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stores.Stable.SetUint64(stableTerm, 1), stores.Close()); err != nil {
		t.Fatal(err)
	}
	m := newNetwork().boot(t, "n1", dir, alone)
	awaitLeader(t, m)
	mustCommit(t, m, put("p", "1", 0))
}

func TestWhoHasVotedDoesNotBootstrapAgain(t *testing.T) {
	stores, err := OpenStores(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	if err := errors.Join(stores.Stable.SetUint64(stableTerm, 1), stores.Stable.SetUint64(voteTermKey, 1)); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	transport := NewTransport(TransportConfig{Name: "n1", Listener: listener, Dial: newNetwork().dial})
	defer transport.Close()
	_, err = Open(Config{Name: "n1", Log: stores.Log, Stable: stores.Stable, Snapshots: stores.Snapshots, Transport: transport, Bootstrap: true})
	if err != nil {
		t.Fatal(err)
	}
	if last, err := stores.Log.LastIndex(); err != nil || last != 0 {
		t.Errorf("the log goes to %d, %v: want none, it may be another's voter", last, err)
	}
}

func TestUnfinishedSnapshotsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"1-9-9.tmp", "1-8-8"} {
		if err := os.MkdirAll(filepath.Join(dir, "snapshots", path), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "snapshots", "1-9-9.tmp", "meta.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	stores, err := OpenStores(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	left, err := os.ReadDir(filepath.Join(dir, "snapshots"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}
