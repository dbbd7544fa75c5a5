package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A compression is told by a stream's first bytes, not by what anybody says.
type compression int

const (
	plain compression = iota
	gzipped
	zstandard
)

// mediaType is that of a layer so compressed.
func (c compression) mediaType() string {
	return [...]string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd}[c]
}

// magicBytes is how many bytes detect wants to see.
const magicBytes = 4

func detect(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a skippable frame
		return zstandard
	}
	return plain
}

// maxWindow is how much memory a zstd stream may ask for; zstd itself asks for
// 8 MiB at its usual levels.
const maxWindow = 64 << 20

// unpacked reads a stream that may be compressed. It fails with an
// *InvalidError once more than most bytes came out, or too many for what went
// in. Closing it does not close r.
func unpacked(r io.Reader, most, ratio int64) (io.ReadCloser, error) {
	in := &counter{r: r}
	br := bufio.NewReaderSize(in, 64<<10)
	head, err := br.Peek(magicBytes)
	if err != nil && err != io.EOF {
		return nil, err
	}
	m := &meter{in: in, most: most}
	switch detect(head) {
	case gzipped:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, &InvalidError{Err: fmt.Errorf("gzip: %w", err)}
		}
		m.out, m.ratio, m.close = z, ratio, z.Close
	case zstandard:
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, &InvalidError{Err: fmt.Errorf("zstd: %w", err)}
		}
		m.out, m.ratio, m.close = z, ratio, func() error { z.Close(); return nil }
	default:
		m.out, m.close = br, func() error { return nil }
	}
	return m, nil
}

// A counter counts the bytes read through it.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// A meter stops a stream that unfolds to too much.
type meter struct {
	in    *counter
	out   io.Reader
	close func() error
	n     int64
	most  int64
	ratio int64 // 0: not compressed
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.out.Read(p)
	m.n += int64(n)
	if m.n > m.most {
		return n, invalid("unpacks to more than the %d bytes that are allowed", m.most)
	}
	if m.ratio > 0 && m.n > ratioFrom && m.n/m.ratio > m.in.n {
		return n, invalid("unpacks to more than %d times its size", m.ratio)
	}
	if err != nil && err != io.EOF && m.ratio > 0 {
		err = &InvalidError{Err: fmt.Errorf("unpack: %w", err)}
	}
	return n, err
}

func (m *meter) Close() error { return m.close() }
