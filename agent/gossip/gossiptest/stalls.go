package gossiptest

import (
	"iter"
	"math/rand/v2"
	"time"
)

// StallLengths are how long processes stand still in the simulations that look
// for false alarms: shorter than the ring's patience, longer, and longer than
// an election.
var StallLengths = []time.Duration{300 * time.Millisecond, 600 * time.Millisecond, 1500 * time.Millisecond}

// A Stall is a process that stands still for a while, as after SIGSTOP, while
// its kernel goes on.
type Stall struct {
	At   time.Duration // since the beginning
	Node int           // of 0 to nodes-1
	For  time.Duration
}

// Stalls returns when which of so many nodes stand still, in order, without end:
// each one every so often on the average, independently of the others, for one
// of StallLengths. The same seed gives the same stalls.
func Stalls(seed uint64, nodes int, every time.Duration) iter.Seq[Stall] {
	return func(yield func(Stall) bool) {
		random := rand.New(rand.NewPCG(seed, 0x57a11)) //nolint:gosec // must repeat
		for at := time.Duration(0); ; {
			at += time.Duration(random.ExpFloat64() * float64(every) / float64(nodes))
			s := Stall{At: at, Node: random.IntN(nodes), For: StallLengths[random.IntN(len(StallLengths))]}
			if !yield(s) {
				return
			}
		}
	}
}
