package identity

import (
	"crypto/ed25519"
	"slices"
	"testing"
)

func TestAClaimHoldsForItsSignerAndItsWordsAlone(t *testing.T) {
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	id := &Identity{key: key}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("n2 is silent")
	claim := id.Claim(message)
	if !ClaimedBy(Fingerprint(public), message, claim) {
		t.Fatal("the signer's own claim is refused")
	}
	flipped := slices.Clone(claim)
	flipped[len(flipped)-1] ^= 1
	for what, ok := range map[string]bool{
		"another signer":   ClaimedBy(Fingerprint(other), message, claim),
		"no signer":        ClaimedBy("", message, claim),
		"other words":      ClaimedBy(Fingerprint(public), []byte("n3 is silent"), claim),
		"a flipped bit":    ClaimedBy(Fingerprint(public), message, flipped),
		"nothing":          ClaimedBy(Fingerprint(public), message, nil),
		"a length too big": ClaimedBy(Fingerprint(public), message, []byte{200, 1}),
		"the longest":      ClaimedBy(Fingerprint(public), message, slices.Repeat([]byte{255}, 400)),
	} {
		if ok {
			t.Errorf("%s: the claim is believed", what)
		}
	}
}
