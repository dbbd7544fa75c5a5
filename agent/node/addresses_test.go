package node

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

func pool(t *testing.T, blocks ...string) (*addresses, *time.Time) {
	t.Helper()
	now := time.Now()
	a := newAddresses()
	a.now = func() time.Time { return now }
	a.learn(nil)
	var list []netip.Prefix
	for _, b := range blocks {
		list = append(list, netip.MustParsePrefix(b))
	}
	a.use(list)
	return a, &now
}

func mustTake(t *testing.T, a *addresses, pod string) netip.Addr {
	t.Helper()
	addr, err := a.take(pod)
	if err != nil {
		t.Fatalf("take for %s: %v", pod, err)
	}
	return addr
}

func TestAPodKeepsItsAddressAndNobodyElseHasIt(t *testing.T) {
	a, _ := pool(t, "10.64.3.0/24")
	had := map[netip.Addr]string{}
	for i := range 200 {
		pod := fmt.Sprint("p", i)
		addr := mustTake(t, a, pod)
		if other := had[addr]; other != "" {
			t.Fatalf("%s is %s's and %s's", addr, other, pod)
		}
		had[addr] = pod
		if again := mustTake(t, a, pod); again != addr {
			t.Errorf("%s had %s, and has %s now", pod, addr, again)
		}
	}
}

func TestABlockThatIsUsedUpSaysSo(t *testing.T) {
	a, now := pool(t, "10.64.3.0/29", "10.64.9.0/30")
	for i := range 8 {
		addr := mustTake(t, a, fmt.Sprint("p", i))
		if b := addr.As4(); b[3] == 0 || addr == netip.MustParseAddr("10.64.3.7") || addr == netip.MustParseAddr("10.64.9.3") {
			t.Errorf("%s is not for Pods", addr)
		}
	}
	_, err := a.take("one more")
	if err == nil || !strings.Contains(err.Error(), "no free address in 10.64.3.0/29, 10.64.9.0/30: 8 are in use") {
		t.Fatalf("the ninth: %v", err)
	}
	gone := a.of("p3")
	a.give("p3")
	if _, err := a.take("one more"); err == nil {
		t.Error("an address is given out again while it should rest")
	}
	*now = now.Add(restAddress)
	if addr := mustTake(t, a, "one more"); addr != gone {
		t.Errorf("got %s, want %s, the only free one", addr, gone)
	}
}

func TestWhatAnEarlierAgentGaveOutIsNotGivenOutAgain(t *testing.T) {
	a := newAddresses()
	a.use([]netip.Prefix{netip.MustParsePrefix("10.64.3.0/24")})
	if _, err := a.take("new"); !errors.Is(err, errNoBlock) {
		t.Fatalf("before it is known what is in use: %v", err)
	}
	a.learn([]container.Sandbox{{Pod: "old", Address: netip.MustParseAddr("10.64.3.1")}, {Pod: "host"}})
	if got := mustTake(t, a, "old"); got != netip.MustParseAddr("10.64.3.1") {
		t.Errorf("old has %s now", got)
	}
	if got := mustTake(t, a, "new"); got == netip.MustParseAddr("10.64.3.1") {
		t.Error("new has the address of old")
	}
}
