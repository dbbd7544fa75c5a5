package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// metaVersion begins every encoded Meta. Later builds append fields and keep
// it, so that older ones read what they know; it changes only if the old
// fields change their meaning.
const metaVersion = 1

// maxMeta bounds what we encode and what we decode, in bytes.
const maxMeta = 200

// Meta is what an agent says of itself to all others. It is advice: whoever
// holds the gossip key could have written it.
type Meta struct {
	// Format is the newest format of objects and log entries that the build reads.
	Format uint32
	// Epoch is the agent's boot epoch: it grows with every start of the agent.
	Epoch uint64
	Load  Load
}

// Permille is a share in thousandths, 0 to 1000.
type Permille uint16

// Load is how busy a machine is.
type Load struct {
	CPU      Permille // of all cores, busy
	Memory   Permille // of all memory, not available to new work
	Disk     Permille // of the file system of the data directory, used
	Load1    uint32   // load average over one minute, in hundredths
	Cores    uint32
	MemoryMB uint32 // in all, MiB
	DiskMB   uint32 // of that file system, MiB
	Pressure Pressure
}

// Pressure is the share of the last ten seconds in which some task waited for
// a resource, as the kernel's pressure stall information has it.
type Pressure struct {
	Known           bool // the kernel tells
	CPU, Memory, IO Permille
}

// metaPressure is a flag of an encoded Meta: its pressure is known.
const metaPressure = 1

// appendMeta encodes m, in fewer than maxMeta bytes.
func appendMeta(b []byte, m Meta) []byte {
	var flags byte
	if m.Load.Pressure.Known {
		flags |= metaPressure
	}
	b = append(b, metaVersion, flags)
	b = binary.BigEndian.AppendUint64(b, m.Epoch)
	for _, v := range m.varints() {
		b = binary.AppendUvarint(b, uint64(*v))
	}
	for _, p := range m.permilles() {
		b = binary.BigEndian.AppendUint16(b, uint16(*p))
	}
	return b
}

func (m *Meta) varints() [5]*uint32 {
	return [...]*uint32{&m.Format, &m.Load.Load1, &m.Load.Cores, &m.Load.MemoryMB, &m.Load.DiskMB}
}

func (m *Meta) permilles() [6]*Permille {
	l := &m.Load
	return [...]*Permille{&l.CPU, &l.Memory, &l.Disk, &l.Pressure.CPU, &l.Pressure.Memory, &l.Pressure.IO}
}

var errMeta = errors.New("metadata cut short or out of bounds")

// parseMeta decodes what appendMeta wrote, or a later build did.
func parseMeta(b []byte) (Meta, error) {
	var m Meta
	if len(b) > maxMeta || len(b) < 10 {
		return Meta{}, errMeta
	}
	if b[0] != metaVersion {
		return Meta{}, fmt.Errorf("metadata of version %d is not known to this build", b[0])
	}
	m.Load.Pressure.Known = b[1]&metaPressure != 0
	m.Epoch = binary.BigEndian.Uint64(b[2:])
	b = b[10:]
	for _, v := range m.varints() {
		x, n := binary.Uvarint(b)
		if n <= 0 || x > 1<<32-1 {
			return Meta{}, errMeta
		}
		*v, b = uint32(x), b[n:]
	}
	for _, p := range m.permilles() {
		if len(b) < 2 {
			return Meta{}, errMeta
		}
		*p, b = Permille(binary.BigEndian.Uint16(b)), b[2:]
		if *p > 1000 {
			return Meta{}, errMeta
		}
	}
	return m, nil
}

// noticeable says whether the others should hear of b after they heard a.
func noticeable(a, b Meta) bool {
	far := func(x, y Permille) bool { return max(x, y)-min(x, y) >= 50 }
	if a.Format != b.Format || a.Epoch != b.Epoch ||
		a.Load.Cores != b.Load.Cores || a.Load.Pressure.Known != b.Load.Pressure.Known {
		return true
	}
	if a.Load.MemoryMB != b.Load.MemoryMB || a.Load.DiskMB != b.Load.DiskMB {
		return true
	}
	before, after := a.permilles(), b.permilles()
	for i := range before {
		if far(*before[i], *after[i]) {
			return true
		}
	}
	// The load average is told by halves of a core for each that there is.
	step := max(50*b.Load.Cores, 50)
	return max(a.Load.Load1, b.Load.Load1)-min(a.Load.Load1, b.Load.Load1) >= step
}
