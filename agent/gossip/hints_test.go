package gossip

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A hint reaches all, a newer one takes its place, and who comes later is told.
func TestHintsReachAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 8)
		defer c.stopAll()
		c.settle()
		heard := func(want string) func() bool {
			return func() bool {
				for _, n := range c.nodes {
					if string(n.Hint("n3")) != want {
						return false
					}
				}
				return true
			}
		}
		if err := c.nodes[2].Tell([]byte("one layer")); err != nil {
			t.Fatal(err)
		}
		c.eventually(5*time.Second, heard("one layer"), "all hear of it")
		if err := c.nodes[2].Tell([]byte("two layers")); err != nil {
			t.Fatal(err)
		}
		c.eventually(5*time.Second, heard("two layers"), "all hear of the newer one")
		c.known.Store("n9", true)
		c.nodes = append(c.nodes, c.start("n9", nodeIP(8), 1))
		c.eventually(4*time.Second, heard("two layers"), "a newcomer hears of it")
		c.nodes[6].stop()
		c.nodes[6] = c.start("n7", nodeIP(6), 2)
		c.eventually(4*time.Second, heard("two layers"), "one that has started again hears of it")
		if err := c.nodes[2].Tell(bytes.Repeat([]byte{1}, MaxHint+1)); err == nil {
			t.Error("a hint that is too long is told")
		}
	})
}

// A node that starts again says what holds now, although its sequence begins anew,
// and what it said before is not believed when it comes late.
func TestAHintOfAnEarlierBootIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.stopAll()
		c.settle()
		g := c.nodes[0].Gossip
		say := func(epoch, seq uint64, data string) bool {
			_, news := g.heardHint(appendHint(nil, hint{name: "n2", epoch: epoch, seq: seq, data: []byte(data)}))
			return news
		}
		steps := []struct {
			epoch, seq uint64
			data, want string
		}{
			{5, 9, "old", "old"}, {5, 8, "late", "old"}, {6, 1, "new", "new"}, {5, 99, "ghost", "new"}, {6, 1, "twice", "new"}, {6, 2, "", ""},
		}
		for _, s := range steps {
			news := say(s.epoch, s.seq, s.data)
			if got := string(g.Hint("n2")); got != s.want || news != (s.data == s.want) {
				t.Errorf("after %q of boot %d: hint %q, news %v, want %q", s.data, s.epoch, got, news, s.want)
			}
		}
		for _, name := range []string{"n1", "stranger"} { // not in our name, nor of whom we do not know
			if _, news := g.heardHint(appendHint(nil, hint{name: name, epoch: 9, seq: 9, data: []byte("x")})); news {
				t.Errorf("a hint of %s is believed", name)
			}
		}
	})
}

// The longest hint of the longest name fits into a datagram of ours.
func TestTheLongestHintFits(t *testing.T) {
	name := strings.Repeat("n", maxName)
	s := mustSeal(t, name, testKey)
	h := hint{name: name, data: make([]byte, MaxHint)}
	if n := len(s.close(nil, appendHint([]byte{kindHint}, h))); n > maxDatagram {
		t.Errorf("%d bytes, and only %d are allowed", n, maxDatagram)
	}
}
