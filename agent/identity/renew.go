package identity

import (
	"context"
	"crypto"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// When to renew. A third of a week gone leaves two thirds to try again in.
const (
	renewAfter    = 3 // 1/3 of the lifetime
	firstRetry    = 10 * time.Second
	longestRetry  = 10 * time.Minute
	renewTimeout  = 30 * time.Second
	longestAsleep = time.Hour // timers stand still while a machine is suspended
)

// RenewFunc gets a new certificate (DER) for the node's key from the cluster. It
// is also called once the old one has expired, with which nobody talks: then it
// must use Identity.Reattest's way.
type RenewFunc func(ctx context.Context, pub crypto.PublicKey) ([]byte, error)

// A Renewer keeps a node's certificate young.
type Renewer struct {
	id    *Identity
	renew RenewFunc
	log   *slog.Logger
}

// NewRenewer returns a renewer of id's certificate.
func NewRenewer(id *Identity, renew RenewFunc, logger *slog.Logger) *Renewer {
	return &Renewer{id: id, renew: renew, log: logger.With("component", "identity")}
}

// Run renews until ctx ends: when a third of the lifetime is over, a little later
// on some nodes than on others, and again until it succeeds.
func (r *Renewer) Run(ctx context.Context) error {
	for {
		if !r.sleepUntil(ctx, r.due()) {
			return nil
		}
		for retry := firstRetry; ; retry = min(2*retry, longestRetry) {
			err := r.once(ctx)
			if err == nil {
				r.log.Info("certificate renewed", "expires", r.id.Expires())
				break
			}
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it failed because we stop
			}
			r.log.Warn("certificate not renewed", "expires", r.id.Expires(), "err", err)
			if !sleep(ctx, retry/2+rand.N(retry/2)) {
				return nil
			}
		}
	}
}

// due is when the present certificate should be replaced. Nodes that were made
// together spread over a twelfth of the lifetime.
func (r *Renewer) due() time.Time {
	leaf := r.id.cert.Load().Leaf
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return leaf.NotBefore.Add(life/renewAfter + rand.N(life/(4*renewAfter)))
}

func (r *Renewer) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	der, err := r.renew(ctx, r.id.Public())
	if err != nil {
		return err
	}
	before := r.id.Expires()
	if err := r.id.SetCertificate(der); err != nil {
		return err
	}
	if !r.id.Expires().After(before) {
		return fmt.Errorf("the new certificate expires at %s, no later than the old one", r.id.Expires())
	}
	return nil
}

// sleepUntil follows the wall clock, also when that is set or the machine was
// suspended.
func (r *Renewer) sleepUntil(ctx context.Context, at time.Time) bool {
	for at = at.Round(0); ; {
		left := at.Sub(r.id.now().Round(0))
		if left <= 0 {
			return true
		}
		if !sleep(ctx, min(left, longestAsleep)) {
			return false
		}
	}
}
