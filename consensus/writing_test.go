package consensus

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A refusing disk is full or read-only, term, vote and log alike.
type refusing struct {
	*disk
	errno atomic.Uintptr // 0: it takes everything
}

func (d *refusing) err() error {
	if e := d.errno.Load(); e != 0 {
		return syscall.Errno(e)
	}
	return nil
}

func (d *refusing) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *refusing) StoreLogs(logs []*raft.Log) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.disk.StoreLogs(logs)
}

func (d *refusing) Set(key, value []byte) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.disk.Set(key, value)
}

func (d *refusing) SetUint64(key []byte, value uint64) error {
	if err := d.err(); err != nil {
		return err
	}
	return d.disk.SetUint64(key, value)
}

// onRefusing puts a node on a disk that can refuse.
func onRefusing(d *refusing) func(*Config, *[]Duty) {
	return func(cfg *Config, _ *[]Duty) { cfg.Log, cfg.Stable = d, d }
}

// threeRefusing starts three voters, n1 leading, each on a disk that can refuse.
func (c *cluster) threeRefusing() (disks map[string]*refusing) {
	c.t.Helper()
	disks = map[string]*refusing{}
	for _, name := range []string{"n1", "n2", "n3"} {
		d := &refusing{disk: newDisk()}
		disks[name] = d
		prepare := []func(*Config, *[]Duty){onRefusing(d)}
		if name == "n1" {
			prepare = append(prepare, alone)
		}
		c.start(name, d.disk, prepare...)
	}
	c.leader()
	for _, name := range []string{"n2", "n3"} {
		if err := c.nodes["n1"].AddVoter(c.t.Context(), name, 0); err != nil {
			c.t.Fatal(err)
		}
	}
	return disks
}

func TestALeaderWhoseDiskRefusesMakesWay(t *testing.T) {
	for name, errno := range map[string]syscall.Errno{"full": syscall.ENOSPC, "read-only": syscall.EROFS, "failing": syscall.EIO} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				disks := c.threeRefusing()
				n1 := c.nodes["n1"]
				c.everywhere(c.commit(n1, put("a", "1", 0)), c.nodes["n2"], c.nodes["n3"])
				disks["n1"].errno.Store(uintptr(errno))
				uncertain := make(chan error, 1)
				go func() {
					_, err := n1.Commit(t.Context(), put("a", "2", -1))
					uncertain <- err
				}()
				begin := time.Now()
				next := c.leader(n1)
				if took := time.Since(begin); took > 2*time.Second {
					t.Errorf("another leads after %v, want an election", took)
				}
				if !n1.Stalled() || n1.IsLeader() {
					t.Errorf("the old leader: stalled %v, leads %v", n1.Stalled(), n1.IsLeader())
				}
				if !n1.Away() || n1.CaughtUp() || n1.Leader() != "" {
					t.Errorf("the old leader: away %v, its copy is fit to follow %v, takes %q for the leader", n1.Away(), n1.CaughtUp(), n1.Leader())
				}
				c.commit(next, put("a", "3", -1))
				disks["n1"].errno.Store(0)
				if err := <-uncertain; !errors.Is(err, ErrUncertain) {
					t.Errorf("the write that was refused was answered %v", err)
				}
				c.within(10*time.Second, "it follows the new leader", func() bool {
					return body(n1.Store(), "a") == "3" && n1.Leader() == next.name
				})
			})
		})
	}
}

func TestAFollowerWhoseDiskRefusesOutlivesNewTerms(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		disks := c.threeRefusing()
		n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
		c.everywhere(c.commit(n1, put("a", "1", 0)), n2, n3)
		disks["n3"].errno.Store(uintptr(syscall.EROFS))
		for range 3 { // leadership goes to and fro, and each term wants to be kept
			from := c.leader()
			to := n1
			if from == n1 {
				to = n2
			}
			if err := from.TransferLeadership(t.Context(), to.name); err != nil {
				t.Fatal(err)
			}
			c.within(10*time.Second, "leadership was handed over", to.IsLeader)
		}
		last := c.commit(c.leader(), put("a", "2", -1))
		time.Sleep(time.Second)
		if n3.Store().Index() >= last {
			t.Error("the follower keeps a write that its disk refuses")
		}
		disks["n3"].errno.Store(0)
		c.everywhere(last, n3)
	})
}

func TestASingleVoterWaitsForAFullDisk(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		d := &refusing{disk: newDisk()}
		n := c.start("n1", d.disk, onRefusing(d), alone)
		c.leader()
		c.commit(n, put("a", "1", 0))
		d.errno.Store(uintptr(syscall.ENOSPC))
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.commit(n, put("a", "2", -1))
		}()
		time.Sleep(time.Minute)
		if !n.Stalled() || !n.IsLeader() || n.Confirm(t.Context()) != nil {
			t.Errorf("stalled %v, leads %v: it cannot write, and answers all who read", n.Stalled(), n.IsLeader())
		}
		d.errno.Store(0)
		<-done
	})
}

func TestANodeStopsOnADiskThatRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		disks := c.threeRefusing()
		n1, n2 := c.nodes["n1"], c.nodes["n2"]
		for _, d := range disks {
			d.errno.Store(uintptr(syscall.EROFS))
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _, _ = n1.Commit(ctx, put("a", "1", 0)) }()
		time.Sleep(5 * time.Second) // the followers stand for election, and cannot keep the term
		for _, n := range []*testNode{n1, n2, c.nodes["n3"]} {
			n.stop()
		}
		<-n1.ended
		<-n2.ended
	})
}

func TestWhoMakesRoomIsGivenASecondAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		d := &refusing{disk: newDisk()}
		n := c.start("n1", d.disk, onRefusing(d), alone, func(cfg *Config, _ *[]Duty) {
			cfg.Writes = func() func(error) {
				return func(err error) {
					if errors.Is(err, syscall.ENOSPC) {
						d.errno.Store(0)
					}
				}
			}
		})
		c.leader()
		d.errno.Store(uintptr(syscall.ENOSPC))
		begin := time.Now()
		c.commit(n, put("a", "1", 0))
		if took := time.Since(begin); took > refusedAgain {
			t.Errorf("the write took %v although there was room at once", took)
		}
	})
}
