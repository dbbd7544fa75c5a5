package image

import (
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A PartState is how far a layer is.
type PartState string

// The states of a layer, in their order.
const (
	StateWaiting   PartState = "waiting"
	StatePulling   PartState = "pulling"
	StateHere      PartState = "here"
	StateUnpacking PartState = "unpacking"
	StateReady     PartState = "ready"
)

// A Part is how far one layer of an image is.
type Part struct {
	Digest     string
	State      PartState
	Done, Size int64  // bytes that are here, and in all
	Fetched    int64  // bytes that came during this Fetch
	From       string // where they come from, "" if from nowhere
}

// A Progress tells how far a Fetch is. It may be read at any time; the zero value
// is ready. A nil one is told nothing.
type Progress struct {
	mu    sync.Mutex
	order []digest.Digest
	parts map[digest.Digest]*Part
}

// Parts returns how far each layer is, lowest first. Before the image's manifest
// is known there are none.
func (p *Progress) Parts() []Part {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Part, 0, len(p.order))
	for _, d := range p.order {
		out = append(out, *p.parts[d])
	}
	return out
}

// expect begins with what is to come.
func (p *Progress) expect(layers []ocispec.Descriptor) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order, p.parts = nil, map[digest.Digest]*Part{}
	for _, l := range layers {
		if p.parts[l.Digest] == nil { // the empty layer may be there often
			p.order = append(p.order, l.Digest)
			p.parts[l.Digest] = &Part{Digest: l.Digest.String(), State: StateWaiting, Size: l.Size}
		}
	}
}

func (p *Progress) change(d digest.Digest, f func(*Part)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if part := p.parts[d]; part != nil {
		f(part)
	}
}

func (p *Progress) at(d digest.Digest, state PartState, done int64, from string) {
	p.change(d, func(part *Part) {
		part.State, part.Done = state, done
		if from != "" {
			part.From = from
		}
	})
}

// meter returns a writer that counts what comes of a blob, of which so much is
// here.
func (p *Progress) meter(d digest.Digest, offset int64) *meterTo {
	p.at(d, StatePulling, offset, "")
	return &meterTo{progress: p, digest: d, n: offset}
}

// A meterTo counts the bytes written to it. A nil one does nothing.
type meterTo struct {
	progress *Progress
	growth   *growth // nil: nobody follows
	digest   digest.Digest
	n        int64
}

func (m *meterTo) Write(b []byte) (int, error) {
	m.n += int64(len(b))
	if m.growth != nil {
		m.growth.grow(m.n)
	}
	m.progress.change(m.digest, func(part *Part) {
		part.Done = m.n
		part.Fetched += int64(len(b))
	})
	return len(b), nil
}

func (m *meterTo) done() int64 { return m.n }

func (m *meterTo) from(name string) {
	if m != nil {
		m.progress.at(m.digest, StatePulling, m.n, name)
	}
}
