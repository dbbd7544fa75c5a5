package consensus

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// The first byte of an entry or a snapshot says how the rest is packed. The
// numbers are for ever.
const (
	packedPlain byte = 0
	packedZstd  byte = 1
)

const (
	minPack    = 256      // bytes below which packing gains nothing
	maxUnpack  = 64 << 20 // bytes of one entry, so that a damaged one cannot take all memory
	packWindow = 1 << 20  // bytes back that packing of a snapshot looks
)

// A codec packs and unpacks entries. Its parts are made when first used: a
// follower never packs.
type codec struct {
	encoder func() *zstd.Encoder
	decoder func() *zstd.Decoder
}

func newCodec() *codec {
	return &codec{
		encoder: sync.OnceValue(func() *zstd.Encoder {
			return must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
				zstd.WithWindowSize(maxEntryData), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)))
		}),
		decoder: sync.OnceValue(func() *zstd.Decoder {
			return must(zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(maxUnpack)))
		}),
	}
}

// must is for constructors that fail only on options which are wrong.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// encode packs the encoding of an entry. The raft log has checksums of its own.
func (c *codec) encode(entry []byte) []byte {
	if len(entry) >= minPack {
		packed := c.encoder().EncodeAll(entry, append(make([]byte, 0, len(entry)/2), packedZstd))
		if len(packed) < len(entry) {
			return packed
		}
	}
	return append([]byte{packedPlain}, entry...)
}

// decode returns the entry that data holds.
func (c *codec) decode(data []byte) (*logv1.Entry, error) {
	if len(data) == 0 {
		return nil, fmt.Errorf("log entry is empty")
	}
	packed := data[1:]
	switch data[0] {
	case packedPlain:
	case packedZstd:
		var err error
		if packed, err = c.decoder().DecodeAll(packed, nil); err != nil {
			return nil, fmt.Errorf("unpack log entry: %w", err)
		}
	default:
		return nil, fmt.Errorf("log entry is packed in way %d, which this build does not know: upgrade this agent", data[0])
	}
	var entry logv1.Entry
	if err := proto.Unmarshal(packed, &entry); err != nil {
		return nil, fmt.Errorf("decode log entry: %w", err)
	}
	return &entry, nil
}

// packTo writes what write writes, packed, to w.
func packTo(w io.Writer, write func(io.Writer) error) error {
	if _, err := w.Write([]byte{packedZstd}); err != nil {
		return err
	}
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(packWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	if err := write(encoder); err != nil {
		_ = encoder.Close() // the first error is the one to tell
		return err
	}
	return encoder.Close()
}

// unpackFrom gives read what packTo wrote to r.
func unpackFrom(r io.Reader, read func(io.Reader) error) error {
	var how [1]byte
	if _, err := io.ReadFull(r, how[:]); err != nil {
		return fmt.Errorf("read how it is packed: %w", err)
	}
	switch how[0] {
	case packedPlain:
		return read(r)
	case packedZstd:
		decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(8*packWindow))
		if err != nil {
			return err
		}
		defer decoder.Close()
		return read(decoder)
	default:
		return fmt.Errorf("it is packed in way %d, which this build does not know: upgrade this agent", how[0])
	}
}
