package containertest

import "time"

// testLease lets a lease run out that was renewed once.
func testLease(p *play) {
	id := p.start("pod", "c", "stubborn")
	other := p.start("other", "c", "sleep")
	p.heard(id, 1)
	p.heard(other, 1)
	begin := p.Driver.SinceBoot()
	p.must(p.Driver.Lease(p.ctx, "pod", begin+200*time.Millisecond, begin+300*time.Millisecond))
	p.must(p.Driver.Lease(p.ctx, "pod", begin+600*time.Millisecond, begin+800*time.Millisecond))
	s := p.exited(id)
	if took := p.Driver.SinceBoot() - begin; took < 800*time.Millisecond || took > 3*time.Second {
		p.t.Errorf("ended %v after the lease was sent, want 800 ms", took)
	}
	if s.Signal != 9 || !s.LeaseLost {
		p.t.Errorf("ended with %+v, want signal 9 and word of the lease", s)
	}
	if s, _ := p.status(other); s.PID == 0 {
		p.t.Errorf("a Pod without a lease: %+v, want it to run", s)
	}
	begin = p.Driver.SinceBoot()
	p.must(p.Driver.Lease(p.ctx, "pod", begin+time.Hour, begin+2*time.Hour))
	again := p.start("pod", "again", "sleep")
	p.heard(again, 1)
	if s, _ := p.status(again); s.PID == 0 {
		p.t.Errorf("with a new lease: %+v, want it to run", s)
	}
}
