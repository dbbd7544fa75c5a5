package state

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"google.golang.org/protobuf/encoding/protodelim"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// maxRecord bounds one object in a snapshot, in bytes, so that a damaged length
// cannot ask for all memory.
const maxRecord = 64 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A Snapshot is the rows at one moment. It costs a pointer per row until it is
// dropped.
type Snapshot struct {
	index uint64
	epoch string
	rows  []*Row
}

// Snapshot takes references to all rows, which holds writers up for about 15 ns
// a row; writing them out holds up nobody.
func (s *Store) Snapshot() *Snapshot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	snap := &Snapshot{index: s.index, epoch: s.epoch, rows: s.collect(Selector{Kind: AllKinds})}
	s.guard.check(snap.rows...)
	return snap
}

// Index returns the index of the last entry in the snapshot.
func (s *Snapshot) Index() uint64 { return s.index }

// Write writes the snapshot; equal stores write equal bytes. The format is that
// of log.v1.SnapshotHeader.
func (s *Snapshot) Write(w io.Writer) error {
	slices.SortFunc(s.rows, func(a, b *Row) int { return a.Key.Compare(b.Key) })
	buffered := bufio.NewWriterSize(w, 64<<10)
	sum := crc32.New(castagnoli)
	out := io.MultiWriter(buffered, sum)
	header := &logv1.SnapshotHeader{Index: s.index, Objects: uint64(len(s.rows)), Epoch: s.epoch}
	if _, err := protodelim.MarshalTo(out, header); err != nil {
		return fmt.Errorf("write snapshot header: %w", err)
	}
	for _, row := range s.rows {
		if _, err := protodelim.MarshalTo(out, row.Object()); err != nil {
			return fmt.Errorf("write snapshot of %s: %w", row.Key, err)
		}
	}
	if _, err := buffered.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("write snapshot checksum: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// WriteSnapshot writes all rows as they are now. See Snapshot.
func (s *Store) WriteSnapshot(w io.Writer) error {
	return s.Snapshot().Write(w)
}

// Restore replaces everything by the snapshot in r, which it reads to its end.
// All watches fire and all streams get a Reset. If r is damaged it returns an
// error and changes nothing.
func (s *Store) Restore(r io.Reader) error {
	in := &summed{r: bufio.NewReaderSize(r, 64<<10)}
	limits := protodelim.UnmarshalOptions{MaxSize: maxRecord}
	var header logv1.SnapshotHeader
	if err := limits.UnmarshalFrom(in, &header); err != nil {
		return fmt.Errorf("read snapshot header: %w", noEOF(err))
	}
	tables := make(map[string]*table)
	for i := range header.GetObjects() {
		var o logv1.Object
		if err := limits.UnmarshalFrom(in, &o); err != nil {
			return fmt.Errorf("read snapshot object %d of %d: %w", i+1, header.GetObjects(), noEOF(err))
		}
		row := RowOf(&o)
		t := tables[row.Key.Kind]
		if t == nil {
			t = newTable(row.Key.Kind)
			tables[row.Key.Kind] = t
		}
		row.Key.Kind = t.kind // one string for all
		t.put(row)
	}
	if err := in.verify(); err != nil {
		return err
	}
	s.replace(header.GetIndex(), header.GetEpoch(), tables)
	return nil
}

func (s *Store) replace(index uint64, epoch string, tables map[string]*table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index, s.epoch, s.tables = index, epoch, tables
	s.ring.reset(index)
	s.guard.reset(s.collect(Selector{Kind: AllKinds}))
	s.startLife()
}

// summed reads and sums what was read, byte for byte.
type summed struct {
	r   *bufio.Reader
	sum uint32
	one [1]byte
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.sum = crc32.Update(s.sum, castagnoli, p[:n])
	return n, err
}

func (s *summed) ReadByte() (byte, error) {
	b, err := s.r.ReadByte()
	if err == nil {
		s.one[0] = b
		s.sum = crc32.Update(s.sum, castagnoli, s.one[:])
	}
	return b, err
}

// verify reads the checksum and expects nothing after it.
func (s *summed) verify() error {
	want := s.sum
	var tail [4]byte
	if _, err := io.ReadFull(s.r, tail[:]); err != nil {
		return fmt.Errorf("read snapshot checksum: %w", noEOF(err))
	}
	if have := binary.BigEndian.Uint32(tail[:]); have != want {
		return fmt.Errorf("snapshot is damaged: its checksum is %08x, its content has %08x", have, want)
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("snapshot is damaged: something follows its checksum")
	}
	return nil
}

// noEOF keeps a snapshot that ends early from looking like one that ended.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
