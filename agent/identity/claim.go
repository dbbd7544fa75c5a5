package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"slices"
)

// claimDomain keeps the signature of a claim from being one of anything else.
const claimDomain = "skein claim v1\x00"

// Claim signs what this node says of others by gossip. The result carries the
// node's public key, so that whoever knows its fingerprint can check it.
func (id *Identity) Claim(message []byte) []byte {
	der, err := x509.MarshalPKIXPublicKey(id.Public())
	if err != nil {
		return nil // an Ed25519 key always has this form
	}
	sig := ed25519.Sign(id.key, append([]byte(claimDomain), message...))
	return slices.Concat([]byte{byte(len(der))}, der, sig)
}

// ClaimedBy tells whether a claim was signed by the key with this fingerprint.
func ClaimedBy(fingerprint string, message, claim []byte) bool {
	if len(claim) < 1 || len(claim) < 1+int(claim[0]) {
		return false
	}
	n := 1 + int(claim[0]) // not in a byte, where 255 and 1 are 0
	der, sig := claim[1:n], claim[n:]
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return false
	}
	public, ok := key.(ed25519.PublicKey)
	return ok && fingerprint != "" && Fingerprint(public) == fingerprint &&
		ed25519.Verify(public, append([]byte(claimDomain), message...), sig)
}
