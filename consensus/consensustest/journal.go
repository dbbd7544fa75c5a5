package consensustest

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A journal is a file of records, each with its length and checksum, so that
// whoever reads it knows where a torn write begins.
type journal struct {
	process *process
	name    string
}

const recordHead = 8

// open hands every whole record to each, in order, and cuts off what follows.
func (j journal) open(each func(record []byte) error) error {
	data, ok := j.process.read(j.name)
	if !ok {
		return j.write(nil) // so that the file is there
	}
	at := 0
	for len(data)-at >= recordHead {
		size := int(binary.LittleEndian.Uint32(data[at:]))
		sum := binary.LittleEndian.Uint32(data[at+4:])
		if size > len(data)-at-recordHead || crc32.ChecksumIEEE(data[at+recordHead:at+recordHead+size]) != sum ||
			size == 0 && sum == 0 && at > 0 { // zeros
			break
		}
		if size > 0 {
			if err := each(data[at+recordHead : at+recordHead+size]); err != nil {
				return err
			}
		}
		at += recordHead + size
	}
	return j.process.cut(j.name, at)
}

// write appends a record and returns when it is safe. One that could not be made
// safe is taken back: the next is written over it.
func (j journal) write(record []byte) error {
	out := make([]byte, recordHead, recordHead+len(record))
	binary.LittleEndian.PutUint32(out, uint32(len(record))) //nolint:gosec // records are small
	binary.LittleEndian.PutUint32(out[4:], crc32.ChecksumIEEE(record))
	before, err := j.process.add(j.name, append(out, record...))
	if err != nil {
		return err
	}
	if err := j.process.sync(j.name); err != nil {
		j.process.drop(j.name, before)
		return err
	}
	return nil
}

// The kinds of records in the journal of the log.
const (
	recordEntries = iota
	recordHeadCut // all before an index is gone
	recordTailCut // all after an index is gone
)

var errRecord = errors.New("record with a good checksum is not readable")

func encodeEntries(logs []*raft.Log) []byte {
	out := []byte{recordEntries}
	for _, l := range logs {
		out = binary.AppendUvarint(out, l.Index)
		out = binary.AppendUvarint(out, l.Term)
		out = append(out, byte(l.Type))
		out = binary.AppendVarint(out, l.AppendedAt.UnixNano())
		out = appendBytes(out, l.Data)
		out = appendBytes(out, l.Extensions)
	}
	return out
}

func appendBytes(out, b []byte) []byte {
	return append(binary.AppendUvarint(out, uint64(len(b))), b...)
}

// A reader takes a record apart.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

func (r *reader) bytes() []byte {
	size := r.uvarint()
	if r.bad || size > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	out := r.rest[:size:size]
	r.rest = r.rest[size:]
	return out
}

func (r *reader) skip(n int) {
	if n <= 0 || n > len(r.rest) {
		r.bad, r.rest = true, nil
		return
	}
	r.rest = r.rest[n:]
}

func (r *reader) log() *raft.Log {
	l := &raft.Log{Index: r.uvarint(), Term: r.uvarint()}
	if len(r.rest) > 0 {
		l.Type = raft.LogType(r.rest[0])
	}
	r.skip(1)
	l.AppendedAt = time.Unix(0, r.varint())
	l.Data, l.Extensions = r.bytes(), r.bytes()
	return l
}
