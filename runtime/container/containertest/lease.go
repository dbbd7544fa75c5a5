package containertest

import (
	"context"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

// killed is the exit code after SIGKILL.
const killed = 137

// boot is when the machine of every Driver was started, as far as its clock
// tells.
var boot = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// A lease is how long the containers of a Pod may run.
type lease struct {
	freeze, kill time.Duration
	end          *time.Timer
}

// SinceBoot reads the clock that leases are counted on.
func (d *Driver) SinceBoot() time.Duration { return time.Since(boot) }

// Lease lets a Pod run until then. Its programs do nothing that could be frozen.
func (d *Driver) Lease(ctx context.Context, pod string, freeze, kill time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.leases[pod]; old != nil {
		old.end.Stop()
	}
	l := &lease{freeze: freeze, kill: kill}
	l.end = time.AfterFunc(kill-d.SinceBoot(), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.leases[pod] != l {
			return // renewed
		}
		for id, b := range d.boxes {
			if id.Pod == pod && b.status.State == container.Running {
				b.status.LeaseLost = true
				d.end(b, killed, false)
			}
		}
	})
	d.leases[pod] = l
	return ctx.Err()
}

// Frozen tells whether a Pod's programs are to stand still now.
func (d *Driver) Frozen(pod string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[pod]
	return l != nil && d.SinceBoot() >= l.freeze
}
