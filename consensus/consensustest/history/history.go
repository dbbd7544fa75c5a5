// Package history judges what users of a cluster were told. A Registers history
// holds reads, writes and deletions of objects, some of unknown outcome, and is
// judged by whether they could have happened one after the other (linearizable,
// Herlihy and Wing 1990; porcupine does the search). A Stream judges what one
// follower was told, and Agreement whether all followers were told the same.
package history

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// A Kind is what was asked of an object.
type Kind int

// The kinds.
const (
	Read Kind = iota
	Write
	Delete
)

// Absent is the value of an object that is not there. No write has it.
const Absent = ""

// A Request asks something of the object at Key. Values must be told apart: no
// two writes of one history have the same.
type Request struct {
	Key  string
	Kind Kind
	// Value is what is written.
	Value string
	// Expect, where Based is set, is what a write or deletion is based on: it is
	// refused if the object holds anything else.
	Expect string
	Based  bool
}

// An Outcome is what became of a request.
type Outcome int

// The outcomes. A request that was surely not made need not be recorded.
const (
	Done    Outcome = iota
	Refused         // what it was based on is not so
	Unknown         // it may have happened, or happen later, or never
)

// An Answer is an outcome, and for a read the value.
type Answer struct {
	Outcome Outcome
	Value   string
}

// Registers is a history. It is safe for concurrent use. The zero value is
// empty.
type Registers struct {
	mu  sync.Mutex
	now int64
	ops []porcupine.Operation
}

// Begin says that a request is about to be made. Calls are put in order by
// counting, as in virtual time much happens in one instant.
func (r *Registers) Begin() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	return r.now
}

// End notes the answer to the request that begun belongs to.
func (r *Registers) End(client int, begun int64, in Request, out Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	op := porcupine.Operation{ClientId: client, Input: in, Call: begun, Output: out, Return: r.now}
	if out.Outcome == Unknown {
		if in.Kind == Read {
			return
		}
		op.Return = math.MaxInt64
	}
	r.ops = append(r.ops, op)
}

// Len is how many requests were recorded.
func (r *Registers) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops)
}

// ErrTooLong says that a history could not be judged in the time given.
var ErrTooLong = errors.New("history takes too long to judge")

// Check returns nil if the history could have happened one request after the
// other. It takes at most patience, of the wall clock, and then returns
// ErrTooLong.
func (r *Registers) Check(patience time.Duration) error {
	r.mu.Lock()
	ops := slices.Clone(r.ops)
	r.mu.Unlock()
	byKey := map[string][]porcupine.Operation{}
	for _, op := range ops {
		key := request(op.Input).Key
		byKey[key] = append(byKey[key], op)
	}
	end := time.Now().Add(patience)
	for key, ops := range byKey {
		switch porcupine.CheckOperationsTimeout(model, ops, max(time.Until(end), time.Millisecond)) {
		case porcupine.Illegal:
			return fmt.Errorf("%d requests of %q fit no order:\n%s", len(ops), key, tell(ops))
		case porcupine.Unknown:
			return fmt.Errorf("%d requests of %q: %w", len(ops), key, ErrTooLong)
		}
	}
	return nil
}

func request(in any) Request { return in.(Request) } //nolint:forcetypeassert // of our own
func answer(out any) Answer  { return out.(Answer) } //nolint:forcetypeassert // of our own

// model is one object: its state is the value that it holds.
var model = porcupine.Model{
	Init: func() any { return Absent },
	Step: func(state, input, output any) (bool, any) {
		in, out := request(input), answer(output)
		if in.Kind == Read {
			return out.Value == state, state
		}
		holds := !in.Based || in.Expect == state
		switch {
		case out.Outcome == Refused:
			return !holds, state
		case !holds:
			return out.Outcome == Unknown, state // refused, and nobody was told
		case in.Kind == Delete:
			return true, Absent
		default:
			return true, in.Value
		}
	},
	Equal: func(a, b any) bool { return a == b },
}

// tell lists requests for a person, the last ones of many.
func tell(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	if len(ops) > 60 {
		ops = ops[len(ops)-60:]
	}
	var out strings.Builder
	for _, op := range ops {
		in, got := request(op.Input), answer(op.Output)
		end := fmt.Sprint(op.Return)
		if got.Outcome == Unknown {
			end = "?"
		}
		fmt.Fprintf(&out, "  %d-%s client %d: ", op.Call, end, op.ClientId)
		switch in.Kind {
		case Read:
			fmt.Fprintf(&out, "read %q", got.Value)
		case Write:
			fmt.Fprintf(&out, "write %q", in.Value)
		case Delete:
			fmt.Fprint(&out, "delete")
		}
		if in.Based {
			fmt.Fprintf(&out, " over %q", in.Expect)
		}
		fmt.Fprintln(&out, [...]string{"", ": refused", ": nobody knows"}[got.Outcome])
	}
	return out.String()
}
