package image

import (
	_ "crypto/sha256" // for digests
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Names have one normal form inside, docker.io/skein/demo:v1, and one for
// people, skein/demo:v1, which is all that enters or leaves this package.

// Familiar returns the normal form of a reference for people: "nginx" is
// nginx:latest, "docker.io/skein/demo:v1" is skein/demo:v1.
func Familiar(ref string) (string, error) {
	named, err := parse(ref)
	if err != nil {
		return "", err
	}
	return reference.FamiliarString(named), nil
}

func parse(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, &InvalidError{Err: fmt.Errorf("%q is no reference to an image: %w", ref, err)}
	}
	return reference.TagNameOnly(named), nil
}

// familiar undoes what parse did to a name that came from there.
func familiar(name string) string {
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		return reference.FamiliarString(named)
	}
	return name
}

// parseDigest accepts SHA-256 alone, the one that everybody uses.
func parseDigest(text string) (digest.Digest, error) {
	d, err := digest.Parse(text)
	if err != nil || d.Algorithm() != digest.SHA256 {
		return "", invalid("%q is no digest: sha256: and 64 hexadecimal digits", text)
	}
	return d, nil
}
