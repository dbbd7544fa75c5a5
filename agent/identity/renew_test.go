package identity

import (
	"context"
	"crypto"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCertificateRenewsWithoutRestart(t *testing.T) {
	bubble(t, func(t *testing.T, p *port) {
		p.echo(ProtoNode)
		renewing := func(id *Identity, count *atomic.Int32) *Renewer {
			return NewRenewer(id, func(_ context.Context, pub crypto.PublicKey) ([]byte, error) {
				count.Add(1)
				return p.ca.Sign(pub, id.Name(), time.Now())
			}, slog.New(slog.DiscardHandler))
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n2 := p.node("n2")
		var first, second atomic.Int32
		go func() { _ = renewing(p.id, &first).Run(ctx) }()
		go func() { _ = renewing(n2, &second).Run(ctx) }()
		d := NewDialer(n2, p.verify, p.from("10.0.0.2"))
		for day := range 70 {
			c, err := d.Dial(ctx, "n1", ProtoNode, "n1")
			if err != nil {
				t.Fatalf("day %d: %v", day, err)
			}
			if got, err := io.ReadAll(c); string(got) != "skein-node is n2" {
				t.Fatalf("day %d: got %q, %v", day, got, err)
			}
			_ = c.Close()
			if left := time.Until(n2.Expires()); left < certificateLife/2 {
				t.Fatalf("day %d: the certificate has %v left", day, left)
			}
			time.Sleep(24 * time.Hour)
		}
		// 70 days, each certificate used for a third to five twelfths of a week.
		for _, n := range []int32{first.Load(), second.Load()} {
			if n < 23 || n > 31 {
				t.Errorf("renewed %d times in 70 days, want 23 to 31", n)
			}
		}
	})
}

func TestRenewerTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, "c1")
		id := c.node("n1")
		ctx, cancel := context.WithCancel(t.Context())
		var calls []time.Time
		r := NewRenewer(id, func(ctx context.Context, pub crypto.PublicKey) ([]byte, error) {
			calls = append(calls, time.Now())
			switch {
			case len(calls) == 1:
				<-ctx.Done() // a leader that does not answer
				return nil, ctx.Err()
			case len(calls) == 2:
				return nil, errors.New("no leader")
			case len(calls) == 3:
				return newCluster(t, "c1").ca.Sign(pub, "n1", time.Now())
			case time.Until(id.Expires()) > 0:
				return nil, errors.New("still no leader") // until long past its expiry
			}
			return c.ca.Sign(pub, "n1", time.Now())
		}, slog.New(slog.DiscardHandler))
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(certificateLife + time.Hour)
		synctest.Wait()
		if left := time.Until(id.Expires()); left < certificateLife-time.Hour {
			t.Errorf("the certificate has %v left after the cluster came back", left)
		}
		for i, at := range calls[1:] {
			if d := at.Sub(calls[i]); d < firstRetry/2 || d > longestRetry+renewTimeout {
				t.Errorf("attempt %d came after %v", i+2, d)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
