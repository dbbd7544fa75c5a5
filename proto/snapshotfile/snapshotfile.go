// Package snapshotfile owns the format of a snapshot of a cluster, so that an
// agent writes and reads the same files as the command line does offline. What
// is in a snapshot, and what becomes of it, is the agent's business.
//
// A file begins with the line "skein snapshot" and goes on in frames: a letter,
// the length of the payload and its CRC-32C in four bytes each, the highest
// first, then the payload. The first frame (H) is a skein.v1.SnapshotHeader,
// each of the next (D) some log.v1.Object, with the length of each in front as
// a varint, together as gzip. The last one (E) is the SHA-256 of the whole file
// before it, and nothing follows it.
package snapshotfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Format is what this build writes, and the newest that it reads.
const Format = 1

const (
	magic     = "skein snapshot\n"
	chunkSize = 1 << 20 // of objects before they are packed, in bytes, unless one alone is larger
	maxFrame  = 16 << 20
	maxChunk  = 32 << 20 // unpacked, so that a bomb cannot take all memory
)

// Letters of the frames.
const (
	frameHeader = 'H'
	frameData   = 'D'
	frameEnd    = 'E'
)

// Errors of files that are no good. All say that nothing was read of them.
var (
	ErrNoSnapshot = errors.New("this is no snapshot of skein")
	ErrCut        = errors.New("the snapshot is cut short")
	ErrAltered    = errors.New("the snapshot is damaged or was altered: its checksum is another")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Writer writes a snapshot.
type Writer struct {
	w       io.Writer
	sum     hash.Hash
	pending bytes.Buffer
}

// NewWriter begins a snapshot. It sets the header's format.
func NewWriter(w io.Writer, header *skeinv1.SnapshotHeader) (*Writer, error) {
	s := &Writer{w: w, sum: sha256.New()}
	header.Format = Format
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(header)
	if err != nil {
		return nil, fmt.Errorf("encode the snapshot's header: %w", err)
	}
	if err := s.write([]byte(magic)); err != nil {
		return nil, err
	}
	return s, s.frame(frameHeader, data)
}

// Add writes one object.
func (s *Writer) Add(o *logv1.Object) error {
	if _, err := protodelim.MarshalTo(&s.pending, o); err != nil {
		return fmt.Errorf("encode an object of the snapshot: %w", err)
	}
	if s.pending.Len() < chunkSize {
		return nil
	}
	return s.flush()
}

// Close ends the snapshot; without it the file is no good. It does not close
// what is written to.
func (s *Writer) Close() error {
	if err := s.flush(); err != nil {
		return err
	}
	return s.frame(frameEnd, s.sum.Sum(nil))
}

func (s *Writer) flush() error {
	if s.pending.Len() == 0 {
		return nil
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := s.pending.WriteTo(z)
	if err = errors.Join(err, z.Close()); err != nil {
		return fmt.Errorf("pack the snapshot: %w", err)
	}
	return s.frame(frameData, packed.Bytes())
}

func (s *Writer) frame(kind byte, payload []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload))) //nolint:gosec // chunks are small
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(payload, castagnoli))
	return s.write(append(head, payload...))
}

func (s *Writer) write(b []byte) error {
	s.sum.Write(b)
	if _, err := s.w.Write(b); err != nil {
		return fmt.Errorf("write the snapshot: %w", err)
	}
	return nil
}

// Read reads a whole snapshot and hands over its objects, in their order. It
// fails with ErrNoSnapshot, ErrCut or ErrAltered, and on a newer format; each
// may be called before that is found out, so act on none until Read has ended.
// each may be nil.
func Read(r io.Reader, each func(*logv1.Object) error) (*skeinv1.SnapshotHeader, error) {
	in := &reader{r: bufio.NewReader(r), sum: sha256.New()}
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(in, begin); err != nil || string(begin) != magic {
		return nil, ErrNoSnapshot
	}
	kind, payload, err := in.frame()
	if err != nil {
		return nil, err
	}
	header := &skeinv1.SnapshotHeader{}
	if kind != frameHeader || proto.Unmarshal(payload, header) != nil {
		return nil, ErrAltered
	}
	if header.GetFormat() > Format {
		return header, fmt.Errorf("the snapshot has format %d, this build reads up to %d: upgrade skein", header.GetFormat(), Format)
	}
	found := uint64(0)
	for {
		want := in.sum.Sum(nil)
		switch kind, payload, err = in.frame(); {
		case err != nil:
			return header, err
		case kind == frameEnd:
			return header, in.end(header, payload, want, found)
		case kind != frameData:
			return header, ErrAltered
		}
		n, err := objects(payload, each)
		if err != nil {
			return header, err
		}
		found += n
	}
}

type reader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (r *reader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.sum.Write(b[:n])
	return n, err
}

func (r *reader) frame() (kind byte, payload []byte, err error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, cut(err)
	}
	length := binary.BigEndian.Uint32(head[1:])
	if length > maxFrame {
		return 0, nil, ErrAltered
	}
	var buf bytes.Buffer // grows with what is there, not with what is promised
	if _, err := io.CopyN(&buf, r, int64(length)); err != nil {
		return 0, nil, cut(err)
	}
	if crc32.Checksum(buf.Bytes(), castagnoli) != binary.BigEndian.Uint32(head[5:]) {
		return 0, nil, ErrAltered
	}
	return head[0], buf.Bytes(), nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return fmt.Errorf("read the snapshot: %w", err)
}

// end checks the last frame, and that there are as many objects as the header
// says.
func (r *reader) end(header *skeinv1.SnapshotHeader, sum, want []byte, found uint64) error {
	promised := uint64(0)
	for _, n := range header.GetCounts() {
		promised += n
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) || !bytes.Equal(sum, want) || promised != found {
		return ErrAltered
	}
	return nil
}

func objects(packed []byte, each func(*logv1.Object) error) (uint64, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return 0, ErrAltered
	}
	in := bufio.NewReader(io.LimitReader(z, maxChunk))
	limits := protodelim.UnmarshalOptions{MaxSize: maxChunk}
	for n := uint64(0); ; n++ {
		o := &logv1.Object{}
		err := limits.UnmarshalFrom(in, o)
		switch {
		case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return n, nil
		case err != nil:
			return n, ErrAltered
		}
		if each == nil {
			continue
		}
		if err := each(o); err != nil {
			return n, err
		}
	}
}
