package runc

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/keeper"
)

// List reports our containers as found on disk and in the kernel.
func (d *Driver) List(ctx context.Context) ([]container.Status, error) {
	all := d.all()
	out := make([]container.Status, 0, len(all))
	for _, b := range all {
		d.record(b)
		out = append(out, b.status())
	}
	slices.SortFunc(out, func(a, b container.Status) int {
		return cmp.Or(cmp.Compare(a.ID.Pod, b.ID.Pod), cmp.Compare(a.ID.Name, b.ID.Name), cmp.Compare(a.ID.Attempt, b.ID.Attempt))
	})
	return out, ctx.Err()
}

func (b *box) status() container.Status {
	s := container.Status{ID: b.id, State: container.Running, PID: b.proc.PID, StartedAt: b.proc.Started, Stale: b.stale, Labels: b.labels}
	if e := b.ended(); e != nil {
		s.State, s.PID = container.Exited, 0
		s.ExitCode, s.Signal, s.OOMKilled, s.FinishedAt = e.Code, e.Signal, e.OOMKilled, e.Finished
		s.LeaseLost, s.Message = e.LeaseLost, e.Message
	}
	return s
}

// Logs calls each for the container's output, in order.
func (d *Driver) Logs(ctx context.Context, id container.ID, opt container.LogOptions, each func(container.LogLine) error) error {
	if d.box(id) == nil {
		return fmt.Errorf("read the output of %s: %w", id, container.ErrNotFound)
	}
	read := keeper.ReadOptions{Since: opt.Since, Tail: opt.Tail, Follow: opt.Follow}
	return d.keeper.ReadLog(ctx, id.String(), read, func(l keeper.Line) error {
		return each(container.LogLine{Time: l.Time, Stderr: l.Stream == keeper.Stderr, Partial: l.Partial, Text: l.Text})
	})
}
