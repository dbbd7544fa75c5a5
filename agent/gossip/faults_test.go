package gossip

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

func (n *node) state(of string) State {
	m, ok := n.Member(of)
	if !ok {
		return -1
	}
	return m.State
}

func TestNobodyIsSuspectAtFivePercentLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 20)
		defer c.stopAll()
		c.settle()
		c.net.SetLoss(0.05)
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			for _, n := range c.nodes {
				if s := n.Suspects(); len(s) > 0 {
					t.Fatalf("%s holds %v suspect", n.name, s)
				}
				for _, m := range n.Members() {
					if m.State != StateAlive {
						t.Fatalf("%s holds %s %v", n.name, m.Name, m.State)
					}
				}
			}
		}
	})
}

func TestACrashedAgentIsGoneAndNotSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		defer c.stopAll()
		c.settle()
		crashed := c.nodes[3]
		c.net.Crash(crashed.addr.Addr())
		c.eventually(600*time.Millisecond, func() bool {
			for _, n := range c.nodes {
				if n.state(crashed.name) == StateSuspect {
					t.Fatalf("%s is suspect, though its kernel answers", crashed.name)
				}
				if n != crashed && n.state(crashed.name) != StateGone {
					return false
				}
			}
			return true
		}, "all hold it gone")
		if got := c.nodes[0].Probe(t.Context(), crashed.name, crashed.addr).Outcome; got != AgentGone {
			t.Errorf("probe says %v, want agent gone", got)
		}
		// And the machine a little later, too.
		c.net.PowerOff(crashed.addr.Addr())
		c.eventually(3*time.Second, func() bool { return c.nodes[0].state(crashed.name) == StateSuspect }, "it is suspect")
		if got := c.nodes[0].Probe(t.Context(), crashed.name, crashed.addr).Outcome; got != Silent {
			t.Errorf("probe says %v, want silent", got)
		}
	})
}

func TestASuspectThatIsHeardAgainIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		defer c.stopAll()
		c.settle()
		n := c.nodes[2]
		c.net.PowerOff(n.addr.Addr())
		c.eventually(600*time.Millisecond, func() bool { return c.nodes[0].state(n.name) == StateSuspect }, "it is suspect")
		changed := c.nodes[0].Changed()
		c.net.PowerOn(n.addr.Addr())
		c.eventually(400*time.Millisecond, func() bool { return c.nodes[0].state(n.name) == StateAlive }, "it is alive")
		select {
		case <-changed:
		default:
			t.Error("Changed was not told")
		}
		var cleared bool
		for _, o := range c.nodes {
			for _, r := range o.reported() {
				cleared = cleared || r.Node == n.name && r.Cleared
			}
		}
		if !cleared {
			t.Error("no observer reported it cleared")
		}
	})
}

func TestReportsAreRepeatedAndSaidToANewLeaderAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.stopAll()
		c.settle()
		dead := c.nodes[2]
		c.net.PowerOff(dead.addr.Addr())
		time.Sleep(5 * time.Second)
		got := c.nodes[0].reported()
		if len(got) < 4 || len(got) > 6 {
			t.Errorf("%d reports in 5 s, want one a second", len(got))
		}
		before := len(got)
		c.nodes[0].LeaderChanged()
		if got := c.nodes[0].reported(); len(got) != before+1 {
			t.Errorf("%d new reports to a new leader, want 1", len(got)-before)
		}
	})
}

func TestKeysOfAClusterRotateWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		defer c.stopAll()
		c.settle()
		for _, round := range [][][]byte{{testKey, otherKey}, {otherKey, testKey}, {otherKey}} {
			for _, n := range c.nodes {
				if err := n.SetKeys(round); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
			}
		}
		time.Sleep(40 * time.Second) // full exchanges, too
		for _, n := range c.nodes {
			if n.alive() != 5 || len(n.reported()) > 0 {
				t.Errorf("%s holds %d alive after %d reports, want 5 and none", n.name, n.alive(), len(n.reported()))
			}
			if keys := n.keyring.GetKeys(); len(keys) != 1 || !bytes.Equal(keys[0], otherKey) {
				t.Errorf("%s keeps %d keys in its keyring", n.name, len(keys))
			}
		}
		stranger := mustSeal(t, "n1", testKey)
		if _, _, err := c.nodes[1].seal.open(stranger.close(nil, []byte{kindBeat}), nil, everybody); err == nil {
			t.Error("the old key still opens")
		}
	})
}

// signatures gives each node a key of its own, as certificates do.
func signatures() func(name string) (func([]byte) []byte, func(string, []byte, []byte) bool) {
	keyOf := func(name string) ed25519.PrivateKey {
		seed := make([]byte, ed25519.SeedSize)
		copy(seed, name)
		return ed25519.NewKeyFromSeed(seed)
	}
	return func(name string) (func([]byte) []byte, func(string, []byte, []byte) bool) {
		sign := func(m []byte) []byte { return ed25519.Sign(keyOf(name), m) }
		verify := func(by string, m, sig []byte) bool {
			return ed25519.Verify(keyOf(by).Public().(ed25519.PublicKey), m, sig)
		}
		return sign, verify
	}
}

func TestALiarWithTheGossipKeyKillsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClusterWith(t, 6, signatures())
		defer c.stopAll()
		c.settle()
		host := c.net.Host(netip.MustParseAddr("10.9.9.9"))
		socket, err := host.ListenPacket(testPort)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = socket.Close() }()
		_, write := packetIO(socket)
		victim := c.nodes[2]
		ring := c.nodes[0].Ring()
		epoch := uint64(1)
		for range 200 {
			time.Sleep(50 * time.Millisecond)
			epoch++
			for _, n := range c.nodes {
				// Claims in the observers' names, under their names and an unknown one.
				for i, by := range append(ring.Observers(victim.name), "nobody") {
					liar, _ := newSeal(by, epoch, c.keys)
					data := appendClaim([]byte{kindClaim}, claim{
						observer: by, epoch: epoch, seq: uint64(i), node: victim.name, boot: epoch, what: claimSilent,
						sig: []byte("forged"),
					})
					_, _ = write(liar.close(nil, append(data, "forged"...)), n.addr)
				}
				liar, _ := newSeal("nobody", epoch, c.keys)
				_, _ = write(liar.close(nil, appendBeat(nil, beat{})), n.addr)
				left, _ := newSeal(victim.name, epoch, c.keys)
				_, _ = write(left.close(nil, []byte{kindLeave}), n.addr)
				// memberlist's packets, wrongly padded, too short, and noise.
				for _, b := range [][]byte{{0, 1, 2}, {1}, bytes.Repeat([]byte{1}, 40), noise(200), {244, 3, 1}} {
					_, _ = write(b, n.addr)
				}
			}
			for _, n := range c.nodes {
				if n != victim && n.state(victim.name) != StateAlive {
					t.Fatalf("%s holds %s %v", n.name, victim.name, n.state(victim.name))
				}
				if len(n.Members()) != 6 {
					t.Fatalf("%s holds %d members, want 6", n.name, len(n.Members()))
				}
			}
		}
		// A real death is found all the same.
		c.net.PowerOff(victim.addr.Addr())
		c.eventually(time.Second, func() bool { return c.nodes[0].state(victim.name) == StateSuspect }, "the death is found")
	})
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestWhoIsThrownOutCountsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		defer c.stopAll()
		c.known.Store("outcast", true)
		c.settle()
		outcast := c.start("outcast", netip.MustParseAddr("10.9.9.9"), 1)
		time.Sleep(2 * time.Second)
		defer outcast.stop()
		c.known.Delete("outcast") // thrown out
		for _, n := range c.nodes {
			n.Refresh()
		}
		time.Sleep(time.Second)
		for _, n := range c.nodes {
			if _, ok := n.Member("outcast"); ok || n.Ring().Has("outcast") {
				t.Errorf("%s still holds the one that was thrown out", n.name)
			}
			if slices.Contains(n.Ring().Observers("n1"), "outcast") {
				t.Errorf("%s lets it observe", n.name)
			}
		}
		if got := outcast.Probe(t.Context(), "n1", c.nodes[0].addr).Outcome; got == Alive {
			t.Error("n1 answers the pings of one that is no member")
		}
		time.Sleep(40 * time.Second)
		for _, n := range c.nodes {
			if n.alive() != 5 {
				t.Errorf("%s holds %d alive, want 5", n.name, n.alive())
			}
		}
	})
}

func TestAPartitionHealsAndAllFindBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 6)
		defer c.stopAll()
		c.settle()
		for _, a := range c.nodes[:3] {
			for _, b := range c.nodes[3:] {
				c.net.Cut(a.addr.Addr(), b.addr.Addr())
			}
		}
		time.Sleep(3 * time.Minute) // memberlist forgets the dead after 30 s
		if got := c.nodes[0].alive(); got != 3 {
			t.Errorf("%d alive on one side, want 3", got)
		}
		c.net.Heal()
		c.eventually(40*time.Second, func() bool {
			return !slices.ContainsFunc(c.nodes, func(n *node) bool { return n.alive() != 6 })
		}, "all hold all alive")
	})
}

func TestANodeThatLostEverybodyFindsBackByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.stopAll()
		c.settle()
		c.net.PowerOff(c.nodes[2].addr.Addr())
		time.Sleep(3 * time.Minute)
		if got := c.nodes[2].alive(); got != 1 {
			t.Errorf("the lone one holds %d alive, want itself", got)
		}
		c.net.PowerOn(c.nodes[2].addr.Addr())
		c.eventually(20*time.Second, func() bool { return c.nodes[2].alive() == 3 && c.nodes[0].alive() == 3 }, "all are back")
	})
}

func TestAnAgentMayComeBackAtAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		defer c.stopAll()
		c.settle()
		old := c.nodes[3]
		c.net.PowerOff(old.addr.Addr())
		time.Sleep(100 * time.Millisecond)
		moved := c.start(old.name, netip.MustParseAddr("10.0.7.7"), 2)
		defer moved.stop()
		c.eventually(40*time.Second, func() bool {
			for _, n := range c.nodes[:3] {
				if at, _ := n.Addr(old.name); at != moved.addr || n.state(old.name) != StateAlive {
					return false
				}
			}
			return true
		}, "all know the new address")
		if got := c.nodes[0].Probe(t.Context(), old.name, moved.addr); got.Outcome != Alive || got.Epoch != 2 {
			t.Errorf("probe says %+v, want alive with epoch 2", got)
		}
	})
}

func TestANewcomerThatIsNotYetKnownIsWelcomedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		defer c.stopAll()
		c.settle()
		n := c.start("late", netip.MustParseAddr("10.0.8.8"), 1)
		defer n.stop()
		time.Sleep(10 * time.Second)
		if _, ok := c.nodes[0].Member("late"); ok {
			t.Error("a member that nobody enrolled")
		}
		c.known.Store("late", true)
		for _, o := range append(c.nodes, n) {
			o.Refresh()
		}
		c.eventually(3*time.Second, func() bool {
			return c.nodes[0].alive() == 4 && c.nodes[2].alive() == 4 && n.alive() == 4
		}, "all know the newcomer")
	})
}

func TestWhoStopsOnPurposeHasLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		defer c.stopAll()
		c.settle()
		c.nodes[3].stop()
		for _, n := range c.nodes[:3] {
			if got := n.state("n4"); got != StateLeft {
				t.Errorf("%s holds it %v, want left", n.name, got)
			}
			if len(n.reported()) > 0 {
				t.Errorf("%s misses its beats, though it said that it stops", n.name)
			}
		}
		c.nodes[3] = c.start("n4", nodeIP(3), 2)
		c.eventually(3*time.Second, func() bool { return c.nodes[1].state("n4") == StateAlive }, "it is back")
	})
}

func TestEverybodyKnowsEverybodysLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 5)
		defer c.stopAll()
		c.settle()
		busy := c.nodes[1]
		busy.mu.Lock()
		busy.meta.Load.CPU, busy.meta.Load.Pressure = 900, Pressure{Known: true, IO: 450}
		busy.mu.Unlock()
		// Gossip misses a node now and then; the next full exchange repairs it.
		c.eventually(45*time.Second, func() bool {
			for _, n := range c.nodes {
				m, _ := n.Member(busy.name)
				if m.Meta.Load.CPU != 900 || m.Meta.Load.Pressure.IO != 450 || m.Meta.Epoch != 1 {
					return false
				}
			}
			return true
		}, "all know it")
	})
}

func TestAProbeTellsWhoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		defer c.stopAll()
		c.settle()
		n, at := c.nodes[0], c.nodes[1].addr
		probe := func(name string, addr netip.AddrPort) Outcome { return n.Probe(t.Context(), name, addr).Outcome }
		if got := probe("n2", at); got != Alive {
			t.Errorf("a living one: %v", got)
		}
		if got := probe("n1", at); got != AgentGone {
			t.Errorf("another agent at the address: %v, want agent gone (its machine answers)", got)
		}
		if got := probe("n2", netip.AddrPortFrom(at.Addr(), 9)); got != AgentGone {
			t.Errorf("a closed port: %v", got)
		}
		begin := time.Now()
		if got := probe("n2", netip.MustParseAddrPort("10.77.0.1:7373")); got != Silent {
			t.Errorf("nobody there: %v", got)
		}
		if took := time.Since(begin); took != probeWindow {
			t.Errorf("a silent probe took %v, want %v", took, probeWindow)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if got := n.Probe(ctx, "n2", netip.MustParseAddrPort("10.77.0.1:7373")).Outcome; got != Unknown {
			t.Errorf("cut short: %v, want unknown", got)
		}
	})
}

func TestAKeyringIsSetInAnyOrder(t *testing.T) {
	keys := [][]byte{testKey, otherKey, []byte("0123456789abcdef"), []byte("fedcba9876543210")}
	ring, err := memberlist.NewKeyring(keys[:1], keys[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][][]byte{{keys[2], keys[0]}, {keys[1], keys[2], keys[3]}, {keys[3]}, keys, {keys[1]}} {
		if err := setKeyring(ring, want); err != nil {
			t.Fatal(err)
		}
		if got := ring.GetKeys(); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("keyring holds %q, want %q", got, want)
		}
	}
}
