package fabric

import (
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"
)

func TestRemoveLeavesNothingOfOurs(t *testing.T) {
	m := host(t)
	state := func() string {
		t.Helper()
		out := ""
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and ends with it
			if err := netns.Set(m.ns); err != nil {
				t.Error(err)
				return
			}
			for _, args := range [][]string{{"-4", "route", "show", "table", "main"}, {"-o", "-4", "addr"}, {"-o", "link"}} {
				b, err := exec.Command("ip", args...).CombinedOutput()
				if err != nil {
					t.Errorf("ip %v: %v: %s", args, err, b)
				}
				out += string(b)
			}
		}()
		<-done
		return out
	}
	cable(m, "eth0", "192.0.2.1/24", empty(t), "eth0", "192.0.2.2/24")
	before := state()
	cfg := Config{
		Mode: Tunnel, Self: Peer{Name: "a", Addr: netip.MustParseAddr("192.0.2.1"), Blocks: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/24")}},
		Pods: netip.MustParsePrefix("10.64.0.0/12"), Services: netip.MustParsePrefix("10.96.0.0/16"), Network: 7, Resolver: netip.MustParseAddr("169.254.53.53"),
		Peers: []Peer{{Name: "b", Addr: netip.MustParseAddr("192.0.2.2"), Blocks: []netip.Prefix{netip.MustParsePrefix("10.64.1.0/24")}}},
	}
	if err := m.f.Set(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if got := state(); !strings.Contains(got, "10.64.1.0/24") || !strings.Contains(got, "169.254.53.53") {
		t.Errorf("Set has made nothing:\n%s", got)
	}
	if err := m.f.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != before {
		t.Errorf("after Remove there is\n%s\nand before Set there was\n%s", got, before)
	}
}
