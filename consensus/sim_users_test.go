package consensus

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/skein-dev/skein/consensus/consensustest/history"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

const (
	simKeys    = 5
	simWriters = 4
	simCopies  = 2
)

// simUsers write and read objects and follow them.
type simUsers struct {
	sim    *simulation
	ctx    context.Context
	stop   context.CancelFunc
	copies []*simCopy
}

// A simCopy is a Replica with its file, which is started anew now and then.
type simCopy struct {
	sim    *simulation
	name   string
	random *rand.Rand

	mu      sync.Mutex
	replica *Replica
}

// begin lets users work until they are stopped.
func (s *simulation) begin() *simUsers {
	ctx, stop := context.WithCancel(context.Background())
	u := &simUsers{sim: s, ctx: ctx, stop: stop}
	for i := range simWriters {
		s.parts.Go(func() { u.work(i + 1) })
	}
	for i := range simCopies {
		c := &simCopy{sim: s, name: fmt.Sprint("copy", i), random: rand.New(rand.NewPCG(s.seed, uint64(10+i)))}
		u.copies = append(u.copies, c)
		s.parts.Go(func() { c.run(ctx) })
	}
	return u
}

// work is one user: what it knows of objects comes from its own reads and
// writes, and it writes over what it knows, or over whatever is there.
func (u *simUsers) work(client int) {
	random := rand.New(rand.NewPCG(u.sim.seed, uint64(1000+client)))
	known := map[string]simKnown{}
	for n := 0; u.ctx.Err() == nil; n++ {
		time.Sleep(time.Duration(20+random.IntN(80)) * time.Millisecond)
		at := u.sim.leader()
		if random.IntN(10) == 0 || at == nil { // or from somebody who may not lead any more
			at = u.sim.nodes[random.IntN(len(u.sim.nodes))].alive()
		}
		if at == nil {
			continue
		}
		key := fmt.Sprint("k", random.IntN(simKeys))
		k, ok := known[key]
		delete(known, key)
		switch op := random.IntN(10); {
		case op < 3 || op < 7 && !ok:
			if row, ok := u.read(client, at, key); ok {
				known[key] = row
			}
		case op < 9:
			value := fmt.Sprintf("c%d-%d", client, n)
			in := history.Request{Key: key, Kind: history.Write, Value: value}
			expect := int64(-1)
			if ok && op < 7 {
				in.Based, in.Expect, expect = true, k.value, int64(k.version)
			}
			if index := u.write(client, at, in, put(key, value, expect)); index > 0 {
				known[key] = simKnown{value, index}
			}
		default:
			del := &logv1.Op{Key: pod(key).Proto(), Change: &logv1.Op_Delete{Delete: true}}
			u.write(client, at, history.Request{Key: key, Kind: history.Delete}, &logv1.Txn{Ops: []*logv1.Op{del}})
		}
	}
}

type simKnown struct {
	value   string
	version uint64
}

// read asks the leader for an index and reads there.
func (u *simUsers) read(client int, at *simLife, key string) (simKnown, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	h := &u.sim.history
	begun := h.Begin()
	if at == nil {
		return simKnown{}, false
	}
	index, err := at.ReadIndex(ctx)
	if err != nil || at.Store().Wait(ctx, index) != nil || at.dead.Load() {
		return simKnown{}, false
	}
	got := simKnown{value: history.Absent}
	if row, ok := at.Store().Get(pod(key)); ok {
		got = simKnown{string(row.Body), row.Version}
	}
	u.sim.counts.reads.Add(1)
	h.End(client, begun, history.Request{Key: key, Kind: history.Read}, history.Answer{Value: got.value})
	return got, true
}

// write returns the index of a write that was acknowledged, else 0.
func (u *simUsers) write(client int, at *simLife, in history.Request, txn *logv1.Txn) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	h, n := &u.sim.history, &u.sim.counts
	begun := h.Begin()
	index, err := at.Commit(ctx, txn)
	var conflict *state.ConflictError
	switch {
	case at.dead.Load() || errors.Is(err, ErrUncertain): // the dead do not answer
		n.unknown.Add(1)
		h.End(client, begun, in, history.Answer{Outcome: history.Unknown})
		return 0
	case err == nil:
		n.done.Add(1)
		h.End(client, begun, in, history.Answer{})
		return index
	case errors.As(err, &conflict):
		n.refused.Add(1)
		h.End(client, begun, in, history.Answer{Outcome: history.Refused})
	}
	return 0 // else nothing was proposed
}

// run keeps a copy until ctx ends, starting it anew now and then.
func (c *simCopy) run(ctx context.Context) {
	for ctx.Err() == nil {
		life, stop := context.WithTimeout(ctx, time.Duration(2+c.random.IntN(20))*time.Second)
		r := NewReplica(ReplicaConfig{
			Path: c.sim.nodes[0].path(c.name), Selectors: []state.Selector{{Kind: "Pod"}}, Source: c.source,
			Store: state.New(state.Checked(func(problem string) { c.sim.fail("%s: %s", c.name, problem) })),
		})
		c.mu.Lock()
		c.replica = r
		c.mu.Unlock()
		if err := r.Run(life); err != nil {
			c.sim.fail("%s ended: %v", c.name, err)
		}
		stop()
	}
}

// source is any node that runs; its streams end with it, and are judged.
func (c *simCopy) source(context.Context) (Source, error) {
	l := c.sim.nodes[c.random.IntN(len(c.sim.nodes))].alive()
	if l == nil {
		return nil, errors.New("it does not run")
	}
	return judged{l, c}, nil
}

// judged is a node's store as a source.
type judged struct {
	life *simLife
	copy *simCopy
}

func (j judged) Follow(ctx context.Context, since uint64, epoch string, selectors []state.Selector) iter.Seq2[state.Batch, error] {
	return func(yield func(state.Batch, error) bool) {
		s := j.copy.sim
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		go func() { // a stream ends with its process
			select {
			case <-j.life.ended:
				stop()
			case <-ctx.Done():
			}
		}()
		seen := history.NewStream(j.copy.name+" from "+j.life.machine.name, nil)
		j.copy.mu.Lock()
		store := j.copy.replica.Store()
		j.copy.mu.Unlock()
		seen.Begin(store.List(state.AllKinds, "", ""), since, epoch, s.agreed)
		for b, err := range state.Whole(j.life.Store().Follow(ctx, since, epoch, selectors)) {
			if j.life.dead.Load() {
				return
			}
			if err == nil {
				if b.Reset {
					s.counts.resets.Add(1)
				}
				if err := seen.Told(b); err != nil {
					s.fail("%v", err)
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// settle checks that the copies end up with what the leader's store holds.
func (u *simUsers) settle(leader *simLife, want []*state.Row) {
	for _, c := range u.copies {
		ctx, stop := context.WithCancel(context.Background())
		r := NewReplica(ReplicaConfig{
			Path: u.sim.nodes[0].path(c.name), Selectors: []state.Selector{{Kind: "Pod"}},
			Source: func(context.Context) (Source, error) { return judged{leader, c}, nil },
		})
		c.mu.Lock()
		c.replica = r
		c.mu.Unlock()
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		index := leader.Store().Index()
		u.sim.within(time.Minute, c.name+" knows all", func() bool { return r.Store().Index() >= index })
		end := history.NewStream(c.name, nil)
		end.Begin(r.Store().List(state.AllKinds, "", ""), index, "", nil)
		if err := end.Equal(want); err != nil {
			u.sim.fail("%v", err)
		}
		stop()
		<-ended
	}
}
