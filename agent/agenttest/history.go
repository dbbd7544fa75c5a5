package agenttest

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// A history is what users asked of registers, and what they were told. Calls are
// ordered by a counter, as in virtual time much happens at one instant.
type history struct {
	mu  sync.Mutex
	now int64
	ops []porcupine.Operation
}

// A request reads a register, or writes it: where expect is not nil only if it
// holds this value.
type request struct {
	register string
	write    bool
	value    string
	expect   *string
}

// An answer is a value that was read, or the outcome of a write.
type answer struct {
	value   string
	unknown bool // whether it was written
}

func (h *history) begin() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	return h.now
}

// end notes an answer. A write of unknown outcome may happen at any time later.
func (h *history) end(client int, begun int64, in request, out answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	op := porcupine.Operation{ClientId: client, Input: in, Call: begun, Output: out, Return: h.now}
	if out.unknown {
		op.Return = math.MaxInt64
	}
	h.ops = append(h.ops, op)
}

// registers is the model: each register by itself holds what was written last.
var registers = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range all {
			name := op.Input.(request).register //nolint:forcetypeassert // of our own
			by[name] = append(by[name], op)
		}
		return slices.Collect(maps.Values(by))
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(request), output.(answer) //nolint:forcetypeassert // of our own
		switch {
		case !in.write:
			return out.value == state, state
		case in.expect == nil || *in.expect == state:
			return true, in.value
		}
		return out.unknown, state // it was refused, and nobody knows
	},
}

// check tells whether the history is that of registers, within patience.
func (h *history) check(patience time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	ops := bounded(h.ops)
	if porcupine.CheckOperationsTimeout(registers, ops, patience) == porcupine.Illegal {
		return fmt.Errorf("%d reads and writes do not fit together", len(ops))
	}
	return nil // or too long to judge, which is no verdict
}

// bounded narrows down when the writes of unknown outcome may have happened, as
// every value is written once: before the first answer that shows the value, or,
// where none does, never as far as anybody can tell.
func bounded(ops []porcupine.Operation) []porcupine.Operation {
	type place struct{ register, value string }
	seen := map[place]int64{}
	note := func(at place, when int64) {
		if first, ok := seen[at]; !ok || when < first {
			seen[at] = when
		}
	}
	for _, op := range ops {
		in, out := op.Input.(request), op.Output.(answer) //nolint:forcetypeassert // of our own
		switch {
		case !in.write:
			note(place{in.register, out.value}, op.Return)
		case in.expect != nil && !out.unknown:
			note(place{in.register, *in.expect}, op.Return)
		}
	}
	var kept []porcupine.Operation
	for _, op := range ops {
		in, out := op.Input.(request), op.Output.(answer) //nolint:forcetypeassert // of our own
		if in.write && out.unknown {
			first, shown := seen[place{in.register, in.value}]
			if !shown {
				continue
			}
			op.Return = max(first, op.Call+1)
		}
		kept = append(kept, op)
	}
	return kept
}
