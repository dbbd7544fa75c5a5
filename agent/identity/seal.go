package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
)

// SealingKeySize is how many bytes a sealing key has.
const SealingKeySize = 32

// sealVersion stands before what is sealed, so that the way of sealing can change.
const sealVersion = 1

// ErrUnseal says that something was sealed with another key or for another
// purpose, or was tampered with; which of them cannot be told.
var ErrUnseal = errors.New("cannot be opened with this sealing key")

// Seal encrypts a secret so that it can stand in the log. What is sealed for one
// purpose ("authority") opens for no other.
func Seal(key, secret []byte, purpose string, rand io.Reader) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1+aead.NonceSize(), 1+aead.NonceSize()+len(secret)+aead.Overhead())
	out[0] = sealVersion
	if _, err := io.ReadFull(rand, out[1:]); err != nil {
		return nil, fmt.Errorf("draw a nonce: %w", err)
	}
	return aead.Seal(out, out[1:], secret, []byte(purpose)), nil
}

// Unseal is the way back from Seal. It fails with ErrUnseal.
func Unseal(key, sealed []byte, purpose string) ([]byte, error) {
	aead, err := newAEAD(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < 1+aead.NonceSize()+aead.Overhead() || sealed[0] != sealVersion {
		return nil, ErrUnseal
	}
	nonce, box := sealed[1:1+aead.NonceSize()], sealed[1+aead.NonceSize():]
	secret, err := aead.Open(nil, nonce, box, []byte(purpose))
	if err != nil {
		return nil, ErrUnseal
	}
	return secret, nil
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	if len(key) != SealingKeySize {
		return nil, fmt.Errorf("a sealing key has %d bytes, not %d", SealingKeySize, len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("use the sealing key: %w", err)
	}
	return cipher.NewGCM(block)
}
