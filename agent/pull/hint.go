package pull

import "hash/fnv"

// A hint tells in few bytes which blobs a machine probably has: a Bloom filter
// (Bloom, 1970) of their digests, behind a byte that tells its form. With ten bits
// for each and seven looks, one of a hundred answers is a false yes, which costs a
// question that is refused.
const (
	hintForm = 1
	hintBits = 10
	hintLook = 7
)

// Hint makes a hint of digests, in at most so many bytes: where they are too many
// for that it says yes too often. Of none it is empty.
func Hint(digests []string, most int) []byte {
	if len(digests) == 0 || most < 2 {
		return nil
	}
	out := make([]byte, min(1+(len(digests)*hintBits+7)/8, most))
	out[0] = hintForm
	for _, d := range digests {
		for bit := range looks(d, len(out)-1) {
			out[1+bit/8] |= 1 << (bit % 8)
		}
	}
	return out
}

// Hinted tells whether a machine that gave this hint probably has a blob. What is
// no hint says no.
func Hinted(hint []byte, digest string) bool {
	if len(hint) < 2 || hint[0] != hintForm {
		return false
	}
	for bit := range looks(digest, len(hint)-1) {
		if hint[1+bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

// looks yields the bits of a digest in a filter of so many bytes.
func looks(digest string, size int) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		h := fnv.New64a()
		_, _ = h.Write([]byte(digest))
		for i := range uint64(hintLook) {
			if !yield(mix(h.Sum64()+i) % uint64(8*size)) {
				return
			}
		}
	}
}
