package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// What tokens begin with: the kind, and the format of what follows.
const (
	joinPrefix   = "skein1-"
	personPrefix = "skeinp1-"
)

// A token's bytes: id, secret, CA, expiry, checksum. 60 of them are 96
// characters without padding.
const (
	tokenIDLen     = 5
	tokenSecretLen = 16
	tokenExpiryLen = 5 // seconds since 1970, enough until the year 36812
	tokenSumLen    = 2 // for slips of the hand, not for forgers
	tokenLen       = tokenIDLen + tokenSecretLen + sha256.Size + tokenExpiryLen + tokenSumLen
)

// tokenText is one word to a double click, and survives being upper-cased.
var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

var (
	// ErrTokenMalformed says that a text is no token, or not all of one.
	ErrTokenMalformed = errors.New("malformed token: copy all of it, from its \"skein\" to its last letter")
	// ErrTokenKind says that a person's token was given to a machine.
	ErrTokenKind = errors.New("this token is a person's, not one to join with")
)

// An ExpiredError says that a token is of no use any more.
type ExpiredError struct{ At time.Time }

func (e *ExpiredError) Error() string {
	return "this token has expired at " + e.At.UTC().Format(time.RFC3339)
}

// A Token lets a machine join a cluster, or a person use it. It names the
// cluster's CA, so its holder cannot be fooled by another. The log keeps its ID
// and Hash, never its secret.
type Token struct {
	ID      string // 8 characters; also the name of its object
	Person  bool   // else it is to join with
	Expires time.Time

	secret [tokenSecretLen]byte
	ca     [sha256.Size]byte
}

// NewToken makes a token of the cluster with this CA (DER), good until expires,
// to the second.
func NewToken(person bool, expires time.Time, ca []byte, rand io.Reader) (Token, error) {
	t := Token{Person: person, Expires: expires.UTC().Truncate(time.Second), ca: sha256.Sum256(ca)}
	if s := t.Expires.Unix(); s < 0 || s >= 1<<(8*tokenExpiryLen) {
		return Token{}, fmt.Errorf("a token cannot expire at %s", t.Expires)
	}
	var id [tokenIDLen]byte
	for _, b := range [][]byte{id[:], t.secret[:]} {
		if _, err := io.ReadFull(rand, b); err != nil {
			return Token{}, fmt.Errorf("draw a token: %w", err)
		}
	}
	t.ID = tokenText.EncodeToString(id[:])
	return t, nil
}

// ParseToken is the way back from String. It fails with ErrTokenMalformed.
func ParseToken(text string) (Token, error) {
	var t Token
	text = strings.ToLower(strings.TrimSpace(text))
	body, ok := strings.CutPrefix(text, joinPrefix)
	if !ok {
		if body, t.Person = strings.CutPrefix(text, personPrefix); !t.Person {
			return Token{}, ErrTokenMalformed
		}
	}
	if len(body) != tokenText.EncodedLen(tokenLen) {
		return Token{}, ErrTokenMalformed
	}
	raw, err := tokenText.DecodeString(body)
	if err != nil || len(raw) != tokenLen {
		return Token{}, ErrTokenMalformed
	}
	data, sum := raw[:tokenLen-tokenSumLen], raw[tokenLen-tokenSumLen:]
	if !bytes.Equal(sum, t.sum(data)) {
		return Token{}, ErrTokenMalformed
	}
	t.ID = tokenText.EncodeToString(data[:tokenIDLen])
	data = data[tokenIDLen:]
	data = data[copy(t.secret[:], data):]
	data = data[copy(t.ca[:], data):]
	t.Expires = time.Unix(int64(binary.BigEndian.Uint64(append(make([]byte, 8-tokenExpiryLen), data...))), 0).UTC()
	return t, nil
}

// String is all of the token, secret and CA included, as people pass it on.
func (t Token) String() string {
	id, err := tokenText.DecodeString(t.ID)
	if err != nil || len(id) != tokenIDLen {
		return "" // not made by NewToken or ParseToken
	}
	raw := make([]byte, 0, tokenLen)
	raw = append(raw, id...)
	raw = append(raw, t.secret[:]...)
	raw = append(raw, t.ca[:]...)
	raw = append(raw, binary.BigEndian.AppendUint64(nil, uint64(t.Expires.Unix()))[8-tokenExpiryLen:]...)
	raw = append(raw, t.sum(raw)...)
	return t.prefix() + tokenText.EncodeToString(raw)
}

func (t Token) prefix() string {
	if t.Person {
		return personPrefix
	}
	return joinPrefix
}

func (t Token) sum(data []byte) []byte {
	sum := sha256.Sum256(append([]byte(t.prefix()), data...))
	return sum[:tokenSumLen]
}

// LogValue keeps the secret out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.prefix() + t.ID + "…") }

// MarshalText refuses: nothing but a person may carry a token on.
func (t Token) MarshalText() ([]byte, error) {
	return nil, errors.New("a token is not written down")
}

// Usable refuses a token that has expired, with an *ExpiredError.
func (t Token) Usable(now time.Time) error {
	if now.After(t.Expires) {
		return &ExpiredError{At: t.Expires}
	}
	return nil
}

// Hash is what the log may know of the secret: SHA-256, in hex. The secret is
// random and long, so no more is needed.
func (t Token) Hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}

// SecretMatches tells whether the token's secret has this hash, in the same time
// whatever the answer is.
func SecretMatches(shown Token, hash string) bool {
	return subtle.ConstantTimeCompare([]byte(shown.Hash()), []byte(hash)) == 1
}
