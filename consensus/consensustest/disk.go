package consensustest

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	// ErrDead is what a process that was killed is told: nothing it writes
	// reaches the disk.
	ErrDead = errors.New("this process is dead")
	// ErrOpen refuses a second process.
	ErrOpen = errors.New("another process has these stores open")
	// ErrClosed is what closed stores answer.
	ErrClosed = errors.New("stores are closed")
)

// page is what a disk writes at once, in bytes.
const page = 512

// A Disk is where one machine keeps its stores. It outlives the processes that
// open them, one at a time.
type Disk struct {
	mu     sync.Mutex
	random *rand.Rand
	names  map[string]*file // as a process sees them
	safe   map[string]*file // as a loss of power leaves them
	dirOps []func(map[string]*file)
	life   int                      // of the process that has the stores open; dead ones have an older number
	dead   map[int]map[string]*file // what processes that were killed still read, by their life
	open   bool
	lost   int // bytes, by the last loss of power

	pace     time.Duration // of a sync when all is well
	delay    time.Duration // of a sync
	refusal  error         // of every write
	hold     chan struct{} // syncs wait until it is closed; nil: they do not
	lazy     bool
	released chan struct{} // closed when the process of this life ends
}

// A file grows at its end only.
type file struct {
	data []byte
	safe int // how much of it survives a loss of power
}

// NewDisk returns an empty disk. What it tears depends on the seed.
func NewDisk(seed uint64) *Disk {
	return &Disk{
		random: rand.New(rand.NewPCG(seed, 0xd15c)), //nolint:gosec // must repeat
		names:  map[string]*file{}, safe: map[string]*file{}, dead: map[int]map[string]*file{}, released: make(chan struct{}),
	}
}

// Pace sets how long each sync takes when all is well: no time, to begin with.
func (d *Disk) Pace(each time.Duration) { d.fault(func() { d.pace, d.delay = each, each }) }

// Slow makes each sync take so long.
func (d *Disk) Slow(delay time.Duration) { d.fault(func() { d.delay = delay }) }

// Hang makes syncs wait for Heal, or for the end of their process.
func (d *Disk) Hang() {
	d.fault(func() {
		if d.hold == nil {
			d.hold = make(chan struct{})
		}
	})
}

// Full refuses writes with ENOSPC.
func (d *Disk) Full() { d.fault(func() { d.refusal = syscall.ENOSPC }) }

// ReadOnly refuses writes with EROFS, as a file system does that met an error.
func (d *Disk) ReadOnly() { d.fault(func() { d.refusal = syscall.EROFS }) }

// Lazy makes syncs answer at once and do nothing: a bug for others to find.
func (d *Disk) Lazy() { d.fault(func() { d.lazy = true }) }

// Heal ends Slow, Hang, Full and ReadOnly.
func (d *Disk) Heal() {
	d.fault(func() {
		d.delay, d.refusal = d.pace, nil
		if d.hold != nil {
			close(d.hold)
			d.hold = nil
		}
	})
}

func (d *Disk) fault(begin func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	begin()
}

// Refuses is what every write is refused with now, nil for none.
func (d *Disk) Refuses() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refusal
}

// Kill ends the process that has the stores open. The kernel keeps what it
// wrote.
func (d *Disk) Kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endLife()
}

// endLife ends the process. What its goroutines read until they have ended too is
// what was there: raft takes it ill, and asks without end, if snapshots vanish.
func (d *Disk) endLife() {
	d.dead[d.life] = maps.Clone(d.names)
	d.life++
	d.open = false
	close(d.released)
	d.released = make(chan struct{})
}

// PowerLoss ends the process, and loses or tears what was not synced.
func (d *Disk) PowerLoss() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endLife()
	d.lost = 0
	for _, op := range d.dirOps[:d.random.IntN(len(d.dirOps)+1)] {
		op(d.safe)
	}
	d.dirOps = nil
	d.names = map[string]*file{}
	for _, name := range slices.Sorted(maps.Keys(d.safe)) {
		d.names[name] = d.tear(d.safe[name])
	}
	d.safe = maps.Clone(d.names)
}

// tear returns what is left of a file: all that is safe, and of the rest nothing,
// everything, or a beginning of which some pages are zeros or something else. The
// file as it was belongs to the dead.
func (d *Disk) tear(f *file) *file {
	end := len(f.data)
	damaged := false
	switch d.random.IntN(4) {
	case 0:
		end = f.safe
	case 1:
	case 2:
		damaged = true
	default:
		damaged = true
		end = f.safe + d.random.IntN(len(f.data)-f.safe+1)
	}
	data := slices.Clone(f.data[:end])
	d.lost += len(f.data) - end
	for at := f.safe; damaged && at < end; at += page {
		piece := data[at:min(at+page, end)]
		switch d.random.IntN(4) {
		case 0:
			clear(piece)
			d.lost += len(piece)
		case 1:
			for i := range piece {
				piece[i] = byte(d.random.Uint32())
			}
			d.lost += len(piece)
		}
	}
	return &file{data: data, safe: len(data)}
}

// Lost is how many bytes the last loss of power took, or tore.
func (d *Disk) Lost() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lost
}

// Clone returns the disk as it is now, all of it synced, opened by nobody: what
// a copy taken today looks like to whoever puts it back next week.
func (d *Disk) Clone(seed uint64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewDisk(seed)
	for name, f := range d.names {
		c.names[name] = &file{data: slices.Clone(f.data), safe: len(f.data)}
	}
	c.safe = maps.Clone(c.names)
	return c
}

// A process is who has the stores open. The methods below are its system calls.
type process struct {
	disk *Disk
	life int
}

// begin makes the caller the one process that uses the disk.
func (d *Disk) begin() (*process, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open {
		return nil, ErrOpen
	}
	d.open = true
	return &process{disk: d, life: d.life}, nil
}

// may is asked with the disk locked before it is touched.
func (p *process) may() error {
	if p.disk.life != p.life {
		return ErrDead
	}
	return p.disk.refusal
}

// end lets another process in.
func (p *process) end() {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	if p.disk.life == p.life {
		p.disk.endLife()
	}
}

// files are what this process reads.
func (p *process) files() map[string]*file {
	if p.disk.life != p.life {
		return p.disk.dead[p.life]
	}
	return p.disk.names
}

// add appends to a file, which it makes if need be, and returns its size before.
func (p *process) add(name string, data []byte) (before int, err error) {
	d := p.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := p.may(); err != nil {
		return 0, err
	}
	f := d.names[name]
	if f == nil {
		f = &file{}
		d.names[name] = f
		d.dirOps = append(d.dirOps, func(dir map[string]*file) { dir[name] = f })
	}
	before = len(f.data)
	f.data = append(f.data, data...)
	return before, nil
}

// read returns all of a file, and false if there is none.
func (p *process) read(name string) ([]byte, bool) {
	d := p.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	f := p.files()[name]
	if f == nil {
		return nil, false
	}
	return slices.Clone(f.data), true
}

// cut shortens a file, for good.
func (p *process) cut(name string, size int) error {
	d := p.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := p.may(); err != nil {
		return err
	}
	d.shorten(name, size)
	return nil
}

// drop takes back what was written and could not be made safe, which needs no
// disk: it was in the page cache only.
func (p *process) drop(name string, size int) {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	if p.disk.life == p.life {
		p.disk.shorten(name, size)
	}
}

func (d *Disk) shorten(name string, size int) {
	if f := d.names[name]; f != nil && len(f.data) > size {
		f.data, f.safe = f.data[:size:size], min(f.safe, size)
	}
}

// list returns the names that begin with prefix, sorted.
func (p *process) list(prefix string) []string {
	p.disk.mu.Lock()
	defer p.disk.mu.Unlock()
	var names []string
	for name := range p.files() {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// rename moves all files under one prefix to another at once, as the rename of a
// folder does. An empty "to" removes them.
func (p *process) rename(from, to string) error {
	d := p.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := p.may(); err != nil {
		return err
	}
	op := func(dir map[string]*file) {
		for _, name := range slices.Sorted(maps.Keys(dir)) {
			if rest, ok := strings.CutPrefix(name, from); ok {
				if f := dir[name]; to != "" {
					dir[to+rest] = f
				}
				delete(dir, name)
			}
		}
	}
	op(d.names)
	d.dirOps = append(d.dirOps, op)
	return nil
}

// sync returns when what the file holds now, and its name, will survive. An
// empty name is that of the folder.
func (p *process) sync(name string) error {
	d := p.disk
	d.mu.Lock()
	if err := p.may(); err != nil {
		d.mu.Unlock()
		return err
	}
	f, size, ops := d.names[name], 0, len(d.dirOps)
	if f != nil {
		size = len(f.data)
	}
	delay, hold, released, lazy := d.delay, d.hold, d.released, d.lazy
	d.mu.Unlock()
	if lazy {
		return nil
	}
	wait(delay, hold, released)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life != p.life {
		return ErrDead
	}
	if f != nil {
		f.safe = max(f.safe, min(size, len(f.data)))
	}
	// A journalling file system writes its operations in their order.
	p.commit(ops)
	return nil
}

// commit makes the oldest changes to names safe, of which another sync may have
// done some meanwhile.
func (p *process) commit(upTo int) {
	d := p.disk
	upTo = min(upTo, len(d.dirOps))
	for _, op := range d.dirOps[:upTo] {
		op(d.safe)
	}
	d.dirOps = slices.Delete(d.dirOps, 0, upTo)
}

func wait(delay time.Duration, hold, released <-chan struct{}) {
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-released:
		}
	}
	if hold != nil {
		select {
		case <-hold:
		case <-released:
		}
	}
}
