package history

import (
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/consensus/state"
)

// An op of a test history: begin and end are its times; end 0 is an unknown
// outcome.
type op struct {
	begin, end int64
	in         Request
	out        Answer
}

func judge(ops []op) error {
	var r Registers
	for _, o := range ops {
		r.now = o.end - 1
		if o.end == 0 {
			o.out.Outcome = Unknown
		}
		r.End(int(o.begin), o.begin, o.in, o.out)
	}
	return r.Check(10 * time.Second)
}

func write(begin, end int64, value string) op {
	return op{begin, end, Request{Key: "k", Kind: Write, Value: value}, Answer{}}
}

func over(begin, end int64, old, value string) op {
	return op{begin, end, Request{Key: "k", Kind: Write, Value: value, Expect: old, Based: true}, Answer{}}
}

func refused(o op) op { o.out.Outcome = Refused; return o }

func read(begin, end int64, value string) op {
	return op{begin, end, Request{Key: "k", Kind: Read}, Answer{Value: value}}
}

func remove(begin, end int64) op { return op{begin, end, Request{Key: "k", Kind: Delete}, Answer{}} }

func TestRegisters(t *testing.T) {
	tests := map[string]struct {
		ops  []op
		fits bool
	}{
		"nothing":                               {nil, true},
		"one after the other":                   {[]op{write(1, 2, "a"), read(3, 4, "a"), write(5, 6, "b"), read(7, 8, "b")}, true},
		"a read of what was before":             {[]op{write(1, 2, "a"), write(3, 4, "b"), read(5, 6, "a")}, false},
		"a read beside a write sees either":     {[]op{write(1, 2, "a"), write(3, 6, "b"), read(4, 5, "a")}, true},
		"a read of what was never written":      {[]op{write(1, 2, "a"), read(3, 4, "x")}, false},
		"a read that goes back":                 {[]op{write(1, 2, "a"), write(3, 10, "b"), read(4, 5, "b"), read(6, 7, "a")}, false},
		"an acknowledged write that is lost":    {[]op{write(1, 2, "a"), read(3, 4, Absent)}, false},
		"an unknown write that happened":        {[]op{write(1, 0, "a"), read(3, 4, "a")}, true},
		"an unknown write that did not":         {[]op{write(1, 0, "a"), read(3, 4, Absent)}, true},
		"an unknown write that happens late":    {[]op{write(1, 0, "a"), read(3, 4, Absent), read(5, 6, "a")}, true},
		"an unknown write that is taken back":   {[]op{write(1, 0, "a"), read(3, 4, "a"), read(5, 6, Absent)}, false},
		"a write over what is there":            {[]op{write(1, 2, "a"), over(3, 4, "a", "b"), read(5, 6, "b")}, true},
		"a write over what is not there":        {[]op{write(1, 2, "a"), over(3, 4, "x", "b")}, false},
		"refused, rightly":                      {[]op{write(1, 2, "a"), refused(over(3, 4, "x", "b")), read(5, 6, "a")}, true},
		"refused, wrongly":                      {[]op{write(1, 2, "a"), refused(over(3, 4, "a", "b"))}, false},
		"two write over the same":               {[]op{write(1, 2, "a"), over(3, 6, "a", "b"), over(4, 5, "a", "c")}, false},
		"of two one is refused":                 {[]op{write(1, 2, "a"), over(3, 6, "a", "b"), refused(over(4, 5, "a", "c"))}, true},
		"created once":                          {[]op{over(1, 4, Absent, "a"), refused(over(2, 3, Absent, "b")), read(5, 6, "a")}, true},
		"an unknown write over what never was":  {[]op{write(1, 2, "a"), over(3, 0, "x", "b"), read(5, 6, "a")}, true},
		"which is then read":                    {[]op{write(1, 2, "a"), over(3, 0, "x", "b"), read(5, 6, "b")}, false},
		"deleted":                               {[]op{write(1, 2, "a"), remove(3, 4), read(5, 6, Absent)}, true},
		"deleted, and read":                     {[]op{write(1, 2, "a"), remove(3, 4), read(5, 6, "a")}, false},
		"an unknown deletion":                   {[]op{write(1, 2, "a"), remove(3, 0), read(5, 6, "a"), read(7, 8, Absent)}, true},
		"an unknown deletion that is undone":    {[]op{write(1, 2, "a"), remove(3, 0), read(5, 6, Absent), read(7, 8, "a")}, false},
		"a read of unknown outcome is no read":  {[]op{write(1, 2, "a"), read(3, 0, "x")}, true},
		"objects are looked at by themselves":   {[]op{write(1, 2, "a"), {3, 4, Request{Key: "other", Kind: Read}, Answer{}}}, true},
		"one of which is wrong":                 {[]op{write(1, 2, "a"), {3, 4, Request{Key: "other", Kind: Read}, Answer{Value: "a"}}}, false},
		"one write is read after one not begun": {[]op{read(1, 2, "a"), write(3, 4, "a")}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := judge(tt.ops); (err == nil) != tt.fits {
				t.Errorf("got %v, want it to fit: %v", err, tt.fits)
			}
		})
	}
}

func key(name string) state.Key { return state.Key{Kind: "Pod", Name: name} }

func row(name string, version uint64) *state.Row {
	return &state.Row{Key: key(name), Version: version, Body: []byte(name)}
}

func put(index uint64, rows ...*state.Row) state.Batch {
	return state.Batch{Index: index, Epoch: "e", Puts: rows}
}

func reset(b state.Batch) state.Batch { b.Reset = true; return b }

func del(index uint64, names ...string) state.Batch {
	b := state.Batch{Index: index, Epoch: "e"}
	for _, n := range names {
		b.Deletes = append(b.Deletes, key(n))
	}
	return b
}

func TestStream(t *testing.T) {
	begin := reset(put(5, row("a", 3), row("b", 5)))
	again := state.Batch{Index: 1 << 40} // stands for a new connection
	tests := map[string]struct {
		told []state.Batch
		end  []*state.Row
		want string // part of what is wrong; "": nothing
	}{
		"all is well":                   {[]state.Batch{begin, put(6, row("a", 6)), del(8, "b")}, []*state.Row{row("a", 6)}, ""},
		"an empty step":                 {[]state.Batch{begin, put(6)}, []*state.Row{row("a", 3), row("b", 5)}, ""},
		"changes told as one":           {[]state.Batch{begin, put(9, row("a", 8), row("b", 7))}, []*state.Row{row("a", 8), row("b", 7)}, ""},
		"resumed":                       {[]state.Batch{begin, again, put(5), put(6, row("a", 6))}, []*state.Row{row("a", 6), row("b", 5)}, ""},
		"resumed by a reset":            {[]state.Batch{begin, again, reset(put(9, row("a", 3)))}, []*state.Row{row("a", 3)}, ""},
		"without a beginning":           {[]state.Batch{put(6, row("a", 6))}, nil, "the beginning is missing"},
		"index goes back":               {[]state.Batch{begin, put(4)}, nil, "time went back"},
		"index stays":                   {[]state.Batch{begin, put(6), put(6)}, nil, "twice"},
		"another lineage unannounced":   {[]state.Batch{begin, {Index: 6, Epoch: "f"}}, nil, "epoch changed"},
		"a change told late":            {[]state.Batch{begin, put(7, row("b", 7)), put(8, row("a", 6))}, nil, "only now"},
		"a change from the future":      {[]state.Batch{begin, put(7, row("b", 8))}, nil, "has version 8"},
		"a row that grows older":        {[]state.Batch{begin, put(9, row("a", 9)), {Index: 10, Epoch: "e", Puts: []*state.Row{row("a", 7)}}}, nil, "only now"},
		"a deletion of nothing":         {[]state.Batch{begin, del(6, "x")}, nil, "was not there"},
		"half a step":                   {[]state.Batch{begin, {Index: 6, Epoch: "e", More: true}}, nil, "part of a step"},
		"a change that was never told":  {[]state.Batch{begin, put(7)}, []*state.Row{row("a", 6), row("b", 5)}, "of version 3"},
		"a row that was never told":     {[]state.Batch{begin}, []*state.Row{row("a", 3), row("b", 5), row("c", 4)}, "never told of"},
		"a deletion that was not told":  {[]state.Batch{begin, put(9)}, []*state.Row{row("a", 3)}, "still has"},
		"a reset that forgot to forget": {[]state.Batch{begin, again, reset(put(9, row("a", 3), row("b", 5)))}, []*state.Row{row("a", 3)}, "still has"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := NewStream("s", nil)
			var got []string
			for _, b := range tt.told {
				if b.Index == again.Index {
					s.Resume()
				} else if err := s.Told(b); err != nil {
					got = append(got, err.Error())
				}
			}
			if tt.end != nil {
				if err := s.Equal(tt.end); err != nil {
					got = append(got, err.Error())
				}
			}
			all := strings.Join(got, "; ")
			if tt.want == "" && all != "" || !strings.Contains(all, tt.want) {
				t.Errorf("got %q, want %q", all, tt.want)
			}
		})
	}
}

func TestFollowersThatWereToldOtherThingsDisagree(t *testing.T) {
	a := NewAgreement()
	one, two, other := NewStream("one", a), NewStream("two", a), NewStream("other", a)
	for _, s := range []*Stream{one, two} {
		if err := s.Told(reset(put(5, row("a", 3)))); err != nil {
			t.Error(err)
		}
	}
	if err := one.Told(put(7, row("b", 6))); err != nil {
		t.Error(err)
	}
	if err := two.Told(put(7)); err == nil || !strings.Contains(err.Error(), "differ at index 7") {
		t.Errorf("a lost event: %v, want that they differ", err)
	}
	if err := other.Told(state.Batch{Index: 7, Epoch: "f", Reset: true}); err != nil {
		t.Errorf("another lineage has other rows: %v", err)
	}
	if a.Places() != 3 {
		t.Errorf("%d places compared, want 3", a.Places())
	}
}
