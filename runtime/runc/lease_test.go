package runc

import (
	"os"
	"testing"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// An agent that stood still while the keeper killed a Pod renews its lease
// before it has recorded how the containers ended.
func TestARenewalDoesNotHideThatALeaseHadRunOut(t *testing.T) {
	d := &Driver{keeper: keeper.Dir(t.TempDir()), groups: &cgroups{unified: true}, lapsed: map[string]time.Time{}}
	if err := os.MkdirAll(d.keeper.Leases(), 0o700); err != nil {
		t.Fatal(err)
	}
	now := keeper.SinceBoot()
	if err := d.Lease(t.Context(), "pod", now-2*time.Second, now-time.Second); err != nil {
		t.Fatal(err)
	}
	killed := &exit{Code: 137, Signal: 9, Finished: time.Now().Add(-time.Second)}
	if err := d.Lease(t.Context(), "pod", now+time.Hour, now+2*time.Hour); err != nil {
		t.Fatal(err)
	}
	if !d.leaseLost("pod", killed) {
		t.Error("killed before the renewal: not put down to the lease")
	}
	for what, e := range map[string]*exit{
		"killed after the renewal": {Code: 137, Signal: 9, Finished: time.Now().Add(time.Second)},
		"ended by itself":          {Code: 1, Finished: killed.Finished},
	} {
		if d.leaseLost("pod", e) {
			t.Errorf("%s: put down to the lease", what)
		}
	}
	if d.leaseLost("other", killed) {
		t.Error("a Pod without a lease: put down to one")
	}
}
