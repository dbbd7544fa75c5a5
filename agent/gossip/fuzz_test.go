package gossip

import (
	"encoding/binary"
	"testing"
	"time"
)

// FuzzBeats lets a holder of the gossip key say anything in the name of anybody
// to the failure detector, at any pace. A peer that boots anew and beats is heard
// all the same, and nobody is watched who is not in the ring.
func FuzzBeats(f *testing.F) {
	f.Add([]byte{0, 1, 10, 9, 2, 200, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add([]byte{2, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 7, 7})
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDetector("n1")
		now := time.Unix(100, 0)
		d.step(now, event{kind: evView, ring: NewRing(names(4), nil)}, nil)
		all := []string{"n2", "n3", "n4", "stranger", ""}
		var told int
		for len(data) >= 9 {
			wait := time.Duration(data[1]) * time.Millisecond
			for range data[0] % 4 {
				now = now.Add(wait)
				told += len(d.step(now, event{kind: evTick}, nil))
			}
			m, err := parseBeat(data[2 : 2+min(9, len(data)-2)])
			if err == nil {
				d.step(now, event{
					kind: evBeat, name: all[int(data[0]>>2)%len(all)], epoch: uint64(data[1]), seq: binary.BigEndian.Uint64(data[1:9]),
					farewell: m.farewell, view: m.view,
				}, nil)
			}
			data = data[9:]
			if len(d.peers) > 3 {
				t.Fatalf("%d peers are watched, of a ring of four", len(d.peers))
			}
			if at := d.deadline(); !at.IsZero() && at.Before(now.Add(-time.Second)) {
				t.Fatalf("it wants to be called %v ago", now.Sub(at))
			}
		}
		// An honest peer that boots anew is heard, whatever was said for it.
		p := d.peer("n2")
		if p == nil || p.epoch == ^uint64(0) {
			return
		}
		now = now.Add(time.Millisecond)
		d.step(now, event{kind: evBeat, name: "n2", epoch: p.epoch + 1, seq: 1}, nil)
		if p = d.peer("n2"); p.suspect {
			t.Fatal("a peer that beats is suspected")
		}
	})
}
