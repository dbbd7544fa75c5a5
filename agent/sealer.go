package agent

import (
	"crypto/rand"
	"errors"

	"github.com/skein-dev/skein/agent/identity"
)

// Seal seals a value of a Secret with the key that voters hold.
func (v *voting) Seal(secret []byte, purpose string) ([]byte, error) {
	key := v.agent.id.SealingKey()
	if len(key) == 0 {
		return nil, errNoSealingKey
	}
	return identity.Seal(key, secret, purpose, rand.Reader)
}

// Unseal is the way back from Seal. It fails with identity.ErrUnseal.
func (v *voting) Unseal(sealed []byte, purpose string) ([]byte, error) {
	key := v.agent.id.SealingKey()
	if len(key) == 0 {
		return nil, errNoSealingKey
	}
	return identity.Unseal(key, sealed, purpose)
}

var errNoSealingKey = errors.New("this node has no vote, and so no sealing key")

// writes is the newest format that may be written.
func (a *Agent) writes() uint32 {
	format, _, err := clusterFormat(a.raft.Store())
	if err != nil {
		return firstFormat
	}
	return min(format, a.cfg.Format)
}
