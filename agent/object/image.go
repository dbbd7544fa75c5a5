package object

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// FamiliarImage is ref as nodes name what they hold: with its tag, and without the
// registry that goes without saying. What is no reference stays as it is.
func FamiliarImage(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// ValidImage says why ref is no reference to an image:
// [registry[:port]/]path[:tag][@sha256:digest].
func ValidImage(ref string) error {
	if ref == "" {
		return errors.New("an image is required")
	}
	if len(ref) > 512 {
		return errors.New("is longer than 512 characters")
	}
	name, digest, pinned := strings.Cut(ref, "@")
	if pinned {
		hex, ok := strings.CutPrefix(digest, "sha256:")
		if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
			return errors.New("after @ there must be sha256: and 64 hexadecimal digits in lower case")
		}
	}
	slash := strings.LastIndexByte(name, '/')
	if colon := strings.LastIndexByte(name, ':'); colon > slash {
		if !validTag(name[colon+1:]) {
			return fmt.Errorf("%q is no tag: up to 128 letters, digits, '_', '.' and '-', the first a letter, digit or '_'", name[colon+1:])
		}
		name = name[:colon]
	}
	parts := strings.Split(name, "/")
	if len(parts) > 1 && (strings.ContainsAny(parts[0], ".:") || parts[0] == "localhost") {
		if !validRegistry(parts[0]) {
			return fmt.Errorf("%q is no registry: host or host:port", parts[0])
		}
		parts = parts[1:]
	}
	for _, p := range parts {
		if !validPathPart(p) {
			return fmt.Errorf("%q: the parts of a name are lower-case letters and digits, with '.', '_' or '-' between them", p)
		}
	}
	return nil
}

func alphanumeric(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func validTag(tag string) bool {
	for i := range len(tag) {
		c := tag[i]
		if !alphanumeric(c) && (c < 'A' || c > 'Z') && c != '_' && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return tag != "" && len(tag) <= 128
}

func validRegistry(host string) bool {
	host, port, withPort := strings.Cut(host, ":")
	if withPort && (port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return false
	}
	for label := range strings.SplitSeq(strings.ToLower(host), ".") {
		if label == "" || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
	}
	return true
}

// validPathPart allows one '.', one or two '_', or any number of '-' between
// letters and digits.
func validPathPart(p string) bool {
	for i := 0; i < len(p); {
		if alphanumeric(p[i]) {
			i++
			continue
		}
		from := i
		for i < len(p) && p[i] == p[from] {
			i++
		}
		run := i - from
		switch {
		case from == 0 || i == len(p) || !alphanumeric(p[i]):
			return false
		case p[from] == '-':
		case p[from] == '.' && run == 1:
		case p[from] == '_' && run <= 2:
		default:
			return false
		}
	}
	return p != ""
}

// latest reports whether a reference names no version, or the moving one, so
// that its image may change: Kubernetes then always asks the registry.
func latest(ref string) bool {
	if strings.Contains(ref, "@") {
		return false
	}
	slash := strings.LastIndexByte(ref, '/')
	colon := strings.LastIndexByte(ref, ':')
	return colon <= slash || ref[colon+1:] == "latest"
}
