package keeper

// Output is kept in frames: what one read of a FIFO gave, with where and when.
//
//	0  magic      F5 's' 'k'
//	3  stream     1 stdout, 2 stderr, 3 lost
//	4  length     of the data, little-endian
//	8  time       nanoseconds since 1970, little-endian
//	16 data
//
// The data of a lost frame is a decimal number: so many bytes were dropped
// before it because they could not be written.

// The streams.
const (
	Stdout byte = 1
	Stderr byte = 2
	Lost   byte = 3
)

const (
	// HeaderLen is that of a frame, in bytes.
	HeaderLen = 16
	// MaxFrame bounds the data of a frame, in bytes.
	MaxFrame = 64 << 10
	// DefaultLogLimit bounds what is kept of a container's output, in bytes.
	DefaultLogLimit = 10 << 20
)

const magic0, magic1, magic2 = 0xf5, 's', 'k'

// A Header describes a frame.
type Header struct {
	Stream byte
	Len    int   // of the data, in bytes
	Time   int64 // nanoseconds since 1970
}

// Put writes the header into the first HeaderLen bytes of b.
func (h Header) Put(b []byte) {
	_ = b[HeaderLen-1]
	b[0], b[1], b[2], b[3] = magic0, magic1, magic2, h.Stream
	for i := range 4 {
		b[4+i] = byte(h.Len >> (8 * i)) //nolint:gosec // the byte is meant
	}
	for i := range 8 {
		b[8+i] = byte(h.Time >> (8 * i)) //nolint:gosec // the byte is meant
	}
}

// parseHeader reads a header, or says that b does not begin with one.
func parseHeader(b []byte) (Header, bool) {
	if len(b) < HeaderLen || b[0] != magic0 || b[1] != magic1 || b[2] != magic2 || b[3] < Stdout || b[3] > Lost {
		return Header{}, false
	}
	h := Header{Stream: b[3]}
	for i := range 4 {
		h.Len |= int(b[4+i]) << (8 * i)
	}
	for i := range 8 {
		h.Time |= int64(b[8+i]) << (8 * i)
	}
	return h, h.Len <= MaxFrame && h.Time >= 0
}
