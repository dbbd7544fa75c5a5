package cli

import (
	"crypto/sha256"
	"encoding/pem"
	"testing"

	"pgregory.net/rapid"
)

// personToken makes a token as the cluster with this CA would.
func personToken(caPEM string) string {
	block, _ := pem.Decode([]byte(caPEM))
	ca := sha256.Sum256(block.Bytes)
	raw := append(make([]byte, pinStart), ca[:]...)
	raw = append(raw, 0, 0x7f, 0xff, 0xff, 0xff)
	sum := sha256.Sum256(append([]byte(personPrefix), raw...))
	return personPrefix + tokenText.EncodeToString(append(raw, sum[:2]...))
}

func TestATokenNamesTheCA(t *testing.T) {
	_, ca, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	token := personToken(ca)
	block, _ := pem.Decode([]byte(ca))
	if got, ok := pinOf(" " + token + "\n"); !ok || got != sha256.Sum256(block.Bytes) {
		t.Errorf("pinOf(%q) = %x, %t", token, got, ok)
	}
	rapid.Check(t, func(t *rapid.T) {
		if short := token[:rapid.IntRange(0, len(token)-1).Draw(t, "cut at")]; short != token {
			if got, ok := pinOf(short); ok {
				t.Errorf("a part of the token gave %x", got)
			}
		}
	})
}

func FuzzPinOf(f *testing.F) {
	f.Add("skeinp1-aaaa")
	f.Fuzz(func(_ *testing.T, token string) { pinOf(token) })
}
