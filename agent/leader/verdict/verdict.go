// Package verdict owns the rules by which the leader judges nodes: who is to be
// verified, who is suspect, whose agent alone is gone, who is lost. It is a
// pure machine: it knows the time and the events it is given and nothing else,
// so it can be run by the million. Asking the helpers, confirming the quorum
// and writing verdicts to the log is left to the leader.
package verdict

import "time"

// Rules are the machine's times and limits.
type Rules struct {
	Settle  time.Duration // after the barrier a new leader judges nobody
	Connect time.Duration // after that a node without a stream is verified
	Verify  time.Duration // how long a verification takes at the most
	Rounds  int           // verifications in a row that must meet silence: two bear a stall of half a second
	Forget  time.Duration // a report counts so long without being repeated
	Grace   time.Duration // for a gone agent to come back
	Alone   time.Duration // silence before one of two nodes judges the other
	Burst   time.Duration // the window of the circuit breaker, and what it adds
	Batch   time.Duration // between batches while the breaker is on
	Late    time.Duration // a step this much later than asked for: we slept
}

// Defaults are the rules that were measured and simulated.
func Defaults() Rules {
	return Rules{
		Settle: time.Second, Connect: 2 * time.Second, Verify: 250 * time.Millisecond, Rounds: 2,
		Forget: 3 * time.Second, Grace: 30 * time.Second, Alone: 3 * time.Second,
		Burst: 5 * time.Second, Batch: 2 * time.Second, Late: 150 * time.Millisecond,
	}
}

const (
	maxHelpers  = 3
	needReports = 2
	answerIn    = 2 * time.Second // a verification that brought no result by then is begun again
	goneEvery   = 2 * time.Second // a gone agent's machine is verified so often
	slowEvery   = time.Second     // and a suspect while the breaker is on
	againEvery  = 500 * time.Millisecond
	pauseMost   = 2 * time.Second // between verifications of a node that keeps answering
	helperRest  = 5 * time.Second // for one that did not answer when asked
	insistAfter = 2 * time.Second // a verdict that the log does not show is given again
	// The breaker trips at more than so many suspects, or this share of all.
	burstLeast   = 3
	burstPercent = 15
)

// A State is what is held of a node.
type State int

// The states. Suspicion is none of them: it is reversible and not in the log.
const (
	OK   State = iota
	Gone       // its agent does not run, its machine does
	Lost
)

// An Outcome is what a probe found. The numbers are those of gossip.Outcome
// and of the wire.
type Outcome int

// The outcomes.
const (
	Unknown   Outcome = iota // not carried out, or the helper did not answer
	Alive                    // the node's agent answered
	AgentGone                // its kernel did
	Silent                   // nothing did
)

// A Node is a node as the log has it.
type Node struct {
	Name  string
	State State
	Until time.Time // of Gone
}

// An Event is one of the events below.
type Event interface{ event() }

// Term says that this node leads and has passed its barrier. It forgets all
// that was before.
type Term struct{}

// Members are all enrolled nodes as the log has them, this one among them.
type Members struct {
	Nodes []Node
	// Observers lists those who watch a node, by this node's view of the ring.
	// It must be of a snapshot: always the same answer.
	Observers func(node string) []string
}

// Report is an observer's word, certified by its connection.
type Report struct {
	Reporter, Node string
	Epoch          uint64 // the node's boot epoch that the observer knows; 0: none
	Cleared        bool   // its beats are back
}

// StreamOpen says that a node opened its stream to us, certified.
type StreamOpen struct {
	Node  string
	Epoch uint64
}

// StreamClosed says that a node's stream ended, however.
type StreamClosed struct{ Node string }

// Probed answers a Verify.
type Probed struct {
	ID   uint64
	Self Outcome
	// Helpers has an Outcome for each one that was asked; Unknown, or nothing,
	// if it did not answer in time.
	Helpers map[string]Outcome
	Epoch   uint64 // of the agent that answered, 0 if none did
	// Confirmed says that a quorum took us for the leader after the probes began.
	Confirmed bool
}

// Tick says that the deadline has come.
type Tick struct{}

func (Term) event()         {}
func (Members) event()      {}
func (Report) event()       {}
func (StreamOpen) event()   {}
func (StreamClosed) event() {}
func (Probed) event()       {}
func (Tick) event()         {}

// An Action is one of the actions below.
type Action interface{ action() }

// Verify wants a node probed by ourselves and by the helpers, all at once, and
// our quorum confirmed meanwhile. Answer with Probed, within two seconds.
type Verify struct {
	ID      uint64
	Node    string
	Helpers []string
}

// Suspect says that a node is being verified because its observers miss it.
type Suspect struct{ Node string }

// Clear takes a Suspect back.
type Clear struct{ Node string }

// GoneUntil says that a node's agent is gone and its machine lives: its Pods
// run, and it has until then to come back. It takes a Suspect back.
type GoneUntil struct {
	Node  string
	Until time.Time
}

// Declare says that a node is lost: write it to the log and replace its Pods.
type Declare struct {
	Node     string
	Evidence Evidence
}

// Return says that a node that was gone or lost is back.
type Return struct{ Node string }

// Slow says that so many became suspect at once that the trouble may be our
// own: verdicts wait until then and come in batches of at most Batch.
type Slow struct {
	Suspects, Batch int
	Until           time.Time
}

// SlowOver ends Slow: nothing is left to decide.
type SlowOver struct{}

// Distrust says that a node has come and gone so often that nothing new shall
// go there until then.
type Distrust struct {
	Node   string
	Points int // see flaps
	Until  time.Time
}

// Trust takes a Distrust back.
type Trust struct{ Node string }

func (Verify) action()    {}
func (Suspect) action()   {}
func (Clear) action()     {}
func (GoneUntil) action() {}
func (Declare) action()   {}
func (Return) action()    {}
func (Slow) action()      {}
func (SlowOver) action()  {}
func (Distrust) action()  {}
func (Trust) action()     {}

// Evidence is why a node was declared lost.
type Evidence struct {
	Why          string    // one line for a person
	Since        time.Time // when the suspicion began
	Reporters    []string  // observers that missed it
	StreamClosed bool
	Silent       []string // helpers that reached nobody, of the last verification
	Rounds       int      // verifications that found it so
}
