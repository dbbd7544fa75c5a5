package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// A Recovery re-forms a cluster that has lost its quorum for good, with one
// survivor as its only voter.
type Recovery struct {
	DataDir  string
	PeerDirs []string // data directories of other voters, where their disks can be read here
	Yes      bool     // go ahead; else it only shows what there is
	Force    bool     // go ahead although another copy holds more
	Out      io.Writer
	Logger   *slog.Logger
}

// A held is a copy of the log, and where it lies.
type held struct {
	name, dir string
	epoch     identity.Epoch
	copy      *consensus.Copy
}

// Recover shows what this machine's copy of the log holds, and those that were
// named, and what may be lost; if told to it makes this node the only voter of a
// new epoch. The agent stands still meanwhile, its containers run on. Until the
// last rename nothing of what is there is changed.
func Recover(ctx context.Context, r Recovery) (err error) {
	id, err := identity.Load(filepath.Join(r.DataDir, "identity"))
	if errors.Is(err, fs.ErrNotExist) {
		return &UsageError{Text: r.DataDir + " holds no node of a cluster", Hint: "say with --data-dir where the agent keeps its state"}
	}
	if err != nil {
		return err
	}
	release, err := holdAgent(ctx, filepath.Join(r.DataDir, "keeper"), r.Out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := finishReform(r.DataDir, id); err != nil {
		return err
	}
	own, stores, err := r.open(id, r.DataDir)
	if err != nil {
		return err
	}
	err = r.decide(ctx, id, own)
	if cerr := stores.Close(); err != nil || cerr != nil || !r.Yes {
		return errors.Join(err, cerr)
	}
	return r.reform(id, own)
}

// open reads the copy that a data directory holds.
func (r Recovery) open(id *identity.Identity, dataDir string) (*held, *consensus.Stores, error) {
	dir := filepath.Join(dataDir, raftDir)
	if _, err := os.Stat(filepath.Join(dir, "log")); err != nil {
		return nil, nil, &UsageError{Text: dataDir + " holds no log", Hint: "only a machine that voted has one: run it there, or restore a snapshot into a new cluster"}
	}
	f := &held{name: id.Name(), dir: dataDir}
	var err error
	if f.epoch, err = id.LoadEpoch(filepath.Join(dir, epochFile)); err != nil {
		return nil, nil, err
	}
	stores, err := consensus.OpenStores(dir, r.Logger)
	if err != nil {
		return nil, nil, err
	}
	f.copy, err = consensus.ReadCopy(stores)
	if errors.Is(err, consensus.ErrNoCluster) {
		err = &UsageError{Text: dataDir + " holds an empty log: this machine never voted", Hint: "run it on a machine that did, or restore a snapshot into a new cluster"}
	}
	if err != nil {
		return nil, nil, errors.Join(err, stores.Close())
	}
	return f, stores, nil
}

// decide prints what is known, and refuses what would lose more than it must.
func (r Recovery) decide(ctx context.Context, id *identity.Identity, own *held) error {
	fence, err := id.LoadEpoch(filepath.Join(r.DataDir, epochFile))
	if err != nil {
		return err
	}
	copies := []*held{own}
	for _, dir := range r.PeerDirs {
		peer, err := identity.Load(filepath.Join(dir, "identity"))
		if err != nil {
			return fmt.Errorf("--peer-dir %s: %w", dir, err)
		}
		if peer.ClusterID() != id.ClusterID() {
			return &UsageError{Text: fmt.Sprintf("--peer-dir %s is of another cluster", dir)}
		}
		f, stores, err := r.open(peer, dir)
		if err != nil {
			return fmt.Errorf("--peer-dir %s: %w", dir, err)
		}
		if err := stores.Close(); err != nil {
			return err
		}
		copies = append(copies, f)
	}
	r.show(copies)
	alive := r.answering(ctx, id, own)
	if fence.Newer(own.epoch) {
		return fmt.Errorf("the cluster was re-formed by %s at %s: this copy is of the epoch before, and is of no use any more", fence.Node, fence.At.UTC().Format(time.RFC3339))
	}
	if !slices.ContainsFunc(own.copy.Members, func(m consensus.Member) bool { return m.Name == own.name && m.Voter }) {
		return &UsageError{Text: "this machine has no vote: its copy may lack the end of the log", Hint: "run it on a machine that has one"}
	}
	for _, other := range copies[1:] {
		if other.epoch.Newer(own.epoch) || other.epoch.Generation == own.epoch.Generation && other.copy.Further(own.copy) {
			if !r.Force {
				return &UsageError{Text: fmt.Sprintf("the copy of %s holds more than this one: recover there", other.name), Hint: "--force goes on without what only it holds"}
			}
		}
	}
	voters := 0
	for _, m := range own.copy.Members {
		if m.Voter {
			voters++
		}
	}
	if (1+alive)*2 > voters && voters > 1 && !r.Force {
		return &UsageError{Text: "a majority of the voters answers: the cluster can go on by itself", Hint: "see why it does not with \"skein status\"; --force re-forms it all the same"}
	}
	if !r.Yes {
		fmt.Fprintf(r.Out, "\nNothing was changed. To make %s the only voter of a new epoch, run it again with --yes.\n", own.name)
	}
	return nil
}

// answering asks the other voters where they were last, and counts those that
// obey the epoch of this copy.
func (r Recovery) answering(ctx context.Context, id *identity.Identity, own *held) int {
	alive := 0
	for _, p := range id.Peers() {
		if !slices.ContainsFunc(own.copy.Members, func(m consensus.Member) bool { return m.Name == p.Name && m.Voter }) {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, epochPatience)
		word, err := id.AskEpoch(ask, p.Addr.String(), identity.TCPDialer())
		cancel()
		switch {
		case err != nil:
			fmt.Fprintf(r.Out, "%s does not answer at %s.\n", p.Name, p.Addr)
		case word.Epoch.Lineage != own.epoch.Lineage:
			fmt.Fprintf(r.Out, "%s answers at %s, and is in epoch %d.\n", p.Name, p.Addr, word.Epoch.Generation)
		default:
			alive++
			fmt.Fprintf(r.Out, "%s answers at %s.\n", p.Name, p.Addr)
		}
	}
	return alive
}

// show tells what each copy holds, and what may be missing.
func (r Recovery) show(copies []*held) {
	own := copies[0]
	for _, f := range copies {
		voters := []string{}
		for _, m := range f.copy.Members {
			if m.Voter {
				voters = append(voters, m.Name)
			}
		}
		written := "not known"
		if !f.copy.Written.IsZero() {
			written = f.copy.Written.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(r.Out, "%s (%s)\n  last entry   %d of term %d, written %s\n  snapshot     up to %d\n  epoch        %d\n  voters       %s\n  objects      %s\n",
			f.name, f.dir, f.copy.LastIndex, f.copy.LastTerm, written, f.copy.Snapshot, f.epoch.Generation, strings.Join(voters, ", "), counts(f.copy.Store))
	}
	var unseen []string
	for _, m := range own.copy.Members {
		if m.Voter && !slices.ContainsFunc(copies, func(f *held) bool { return f.name == m.Name }) {
			unseen = append(unseen, m.Name)
		}
	}
	fmt.Fprintf(r.Out, "\nWhat may be lost: changes after entry %d", own.copy.LastIndex)
	if len(unseen) > 0 {
		fmt.Fprintf(r.Out, " that only %s had; they were acknowledged if a majority of the voters had them", strings.Join(unseen, " and "))
	}
	fmt.Fprintln(r.Out, ".\nChanges before it that were never acknowledged may appear.")
}

func counts(store *state.Store) string {
	n := map[string]int{}
	for _, row := range store.List(state.AllKinds, "", "") {
		n[row.Key.Kind]++
	}
	var out []string
	for kind, count := range n {
		out = append(out, fmt.Sprintf("%d %s", count, kind))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// reform writes the new epoch: into stores of their own, which then take the
// place of the old ones. Those are kept aside.
func (r Recovery) reform(id *identity.Identity, own *held) error {
	now := time.Now()
	ca, err := authority(own.copy.Store, id.SealingKey())
	if err != nil {
		return fmt.Errorf("open the cluster's CA, which signs the new epoch: %w", err)
	}
	epoch, err := identity.BeginEpoch(ca, own.epoch, own.name, now)
	if err != nil {
		return err
	}
	keys := make([]byte, 32)
	_, _ = rand.Read(keys) // never fails
	txn, lost, err := aftermath(own, keys, now)
	if err != nil {
		return err
	}
	fresh, raft := filepath.Join(r.DataDir, reformedDir), filepath.Join(r.DataDir, raftDir)
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove an unfinished recovery: %w", err)
	}
	stores, err := consensus.OpenStores(fresh, r.Logger)
	if err != nil {
		return err
	}
	index, err := consensus.Reform(own.copy, stores, own.name, epoch.Lineage, txn)
	if err = errors.Join(err, stores.Close()); err != nil {
		return err
	}
	if err := identity.SaveEpoch(filepath.Join(fresh, epochFile), epoch); err != nil {
		return err
	}
	// What follows is finished by the next start if it is cut off here.
	if err := putAside(r.DataDir, own.epoch); err != nil {
		return err
	}
	if err := os.Rename(fresh, raft); err != nil {
		return fmt.Errorf("put the new log in its place: %w", err)
	}
	if err := errors.Join(consensus.SyncDirs(r.DataDir), identity.SaveEpoch(filepath.Join(r.DataDir, epochFile), epoch), id.SetGossipKeys([][]byte{keys})); err != nil {
		return err
	}
	fmt.Fprintf(r.Out, "\n%s is the only voter of epoch %d, which begins with entry %d. The log as it was is in %s.\n",
		own.name, epoch.Generation, index, filepath.Join(r.DataDir, asideDir(own.epoch)))
	if len(lost) > 0 {
		fmt.Fprintf(r.Out, "%s count as lost: their Pods are made anew elsewhere. Should they come back, they are newcomers. If they never will: skein node rm %s\n",
			strings.Join(lost, " and "), strings.Join(lost, " "))
	}
	return nil
}

// authority opens the cluster's CA out of a store.
func authority(store *state.Store, sealing []byte) (*identity.Authority, error) {
	row, ok := store.Get(state.Key{Kind: object.KindAuthority, Name: object.AuthorityName})
	if !ok {
		return nil, errors.New("the log does not hold it")
	}
	obj, err := object.Decode[object.Authority](row)
	if err != nil {
		return nil, err
	}
	key, err := identity.Unseal(sealing, obj.Spec.SealedKey, sealAuthority)
	if err != nil {
		return nil, err
	}
	return identity.ParseAuthority(obj.Spec.Certificate, key, rand.Reader)
}

// aftermath is what a new epoch changes: another gossip key, so that nodes of
// the old one are neither heard nor understood, and a verdict on the other
// voters, which nobody is left to confirm but the person who says so.
func aftermath(own *held, key []byte, now time.Time) (*logv1.Txn, []string, error) {
	at := metav1.Time{Time: now.Truncate(time.Second)}
	txn := &logv1.Txn{}
	put := func(obj object.Object, row *state.Row) error {
		op, err := object.Put(obj, row.Version)
		if err == nil {
			txn.Ops = append(txn.Ops, op)
		}
		return err
	}
	store := own.copy.Store
	if row, ok := store.Get(state.Key{Kind: object.KindKeyring, Name: object.KeyringName}); ok {
		ring, err := object.Decode[object.Keyring](row)
		if err != nil {
			return nil, nil, err
		}
		ring.Spec.Keys = []object.SealKey{{Key: key, Created: at}}
		if err := put(ring, row); err != nil {
			return nil, nil, err
		}
	}
	var lost []string
	for _, m := range own.copy.Members {
		row, ok := store.Get(state.Key{Kind: object.KindNode, Name: m.Name})
		if m.Name == own.name || !m.Voter || !ok {
			continue
		}
		n, err := object.Decode[corev1.Node](row)
		if err != nil {
			return nil, nil, err
		}
		n.Status.Conditions = slices.DeleteFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: object.ReasonNodeLost,
			Message: "given up when the cluster was re-formed on " + own.name, LastHeartbeatTime: at, LastTransitionTime: at,
		})
		if err := put(n, row); err != nil {
			return nil, nil, err
		}
		lost = append(lost, m.Name)
	}
	return txn, lost, nil
}
