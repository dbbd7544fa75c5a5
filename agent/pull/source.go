package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// ErrNotThere says that a machine has nothing of a blob.
var ErrNotThere = errors.New("it is not there")

// A Piece is one blob of an image.
type Piece struct {
	Digest    string
	MediaType string
	Size      int64 // in bytes, 0 where it is not known
}

// Cluster is how a Source reaches the other machines.
type Cluster interface {
	Self() string
	// Alive lists the other machines that are there, in no order.
	Alive() []string
	// Near tells whether a machine is as near as can be.
	Near(node string) bool
	// Hinted lists the machines of these that have hinted that they have a blob.
	Hinted(digest string) []string
	// Read reads a blob, or what is there of it while it still comes in, from an
	// offset on. ErrNotThere: nothing of it is.
	Read(ctx context.Context, node, digest string, offset int64) (io.ReadCloser, error)
	// Ask asks the desk at a machine, which may be this one.
	Ask(ctx context.Context, node string, q Question) (Answer, error)
}

// Origin is the registry that an image comes from.
type Origin interface {
	Host() string
	Read(ctx context.Context, p Piece, offset int64) (io.ReadCloser, error)
}

// A NobodyError says that no machine that is there has a blob, and there is no
// registry to ask.
type NobodyError struct{ Digest string }

func (e *NobodyError) Error() string {
	return fmt.Sprintf("no machine that is there has blob %s", e.Digest)
}

// Again tells that asking once more at once is in vain.
func (e *NobodyError) Again() (time.Duration, bool) { return 0, false }

// A Source gives the blobs of one image, for one attempt to bring it here.
type Source struct {
	cluster Cluster
	origin  Origin   // nil: there is none
	holders []string // other machines that say they have all of the image

	mu       sync.Mutex
	failures map[string]map[string]int // by digest and machine
	last     map[string]string         // by digest: the machine that gave it last
}

// NewSource returns a Source of an image that holders say they have. origin may
// be nil.
func NewSource(cluster Cluster, origin Origin, holders []string) *Source {
	return &Source{
		cluster: cluster, origin: origin, holders: holders,
		failures: map[string]map[string]int{}, last: map[string]string{},
	}
}

const (
	// tolerated is how often a machine may break off before it counts as failed.
	tolerated = 3
	// held is how many machines that have a blob are tried before others are
	// asked. Where there is no registry, all are.
	held = 3

	askWait   = 2 * time.Second
	lookAgain = 50 * time.Millisecond
	lookMost  = time.Second
)

// Read reads a blob from wherever it is to be had: from machines that have the
// whole image, from those that have hinted at it, from those that its desk knows,
// from the registry. While another
// machine is fetching it from there, it comes from that one as it comes in.
func (s *Source) Read(ctx context.Context, p Piece, offset int64) (io.ReadCloser, error) {
	if r := s.fromAny(ctx, p, offset, s.holders, tolerated); r != nil {
		return r, nil
	}
	if r := s.fromAny(ctx, p, offset, s.cluster.Hinted(p.Digest), tolerated); r != nil {
		return r, nil
	}
	for wait := lookAgain; ; wait = min(2*wait, lookMost) {
		desk := At(append(s.cluster.Alive(), s.cluster.Self()), p.Digest)
		answer, err := s.ask(ctx, desk, p.Digest, Wanted)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && s.origin == nil:
			return nil, &NobodyError{p.Digest}
		case err != nil:
			return s.fromOrigin(ctx, p, offset, "")
		case answer.Fetch && s.origin == nil:
			_, _ = s.ask(ctx, desk, p.Digest, GivenUp) // it expires anyway
			return nil, &NobodyError{p.Digest}
		case answer.Fetch:
			return s.fromOrigin(ctx, p, offset, desk)
		}
		if len(answer.Holders) > 0 {
			// Those that fail for good the desk is told of next time.
			if r := s.fromAny(ctx, p, offset, answer.Holders, 1); r != nil {
				return r, nil
			}
		} else if r := s.fromAny(ctx, p, offset, []string{answer.Fetching}, 0); r != nil { // or it is just about to begin
			return r, nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Source) ask(ctx context.Context, desk, digest string, state State) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	return s.cluster.Ask(ctx, desk, Question{Digest: digest, State: state, Failed: s.failed(digest)})
}

// fromAny tries machines, the near ones first, else by chance. absent is how much
// it counts against one that has nothing.
func (s *Source) fromAny(ctx context.Context, p Piece, offset int64, nodes []string, absent int) io.ReadCloser {
	nodes = slices.Clone(nodes)
	rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	slices.SortStableFunc(nodes, func(a, b string) int { return weigh(s.cluster.Near(b)) - weigh(s.cluster.Near(a)) })
	tries := 0
	for _, node := range nodes {
		if s.hasFailed(p.Digest, node) || tries == held && s.origin != nil {
			continue
		}
		tries++
		r, err := s.cluster.Read(ctx, node, p.Digest, offset)
		if err == nil {
			s.gave(p.Digest, node)
			return &watched{ReadCloser: r, source: s, ctx: ctx, digest: p.Digest, node: node, left: p.Size - offset, sized: p.Size > 0}
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, ErrNotThere) {
			s.fail(p.Digest, node, absent)
		} else {
			s.fail(p.Digest, node, tolerated)
		}
	}
	return nil
}

func weigh(near bool) int {
	if near {
		return 1
	}
	return 0
}

// fromOrigin reads from the registry, and tells the desk so as long as it lasts.
func (s *Source) fromOrigin(ctx context.Context, p Piece, offset int64, desk string) (io.ReadCloser, error) {
	s.gave(p.Digest, "")
	r, err := s.origin.Read(ctx, p, offset)
	switch {
	case err != nil && desk != "":
		_, _ = s.ask(ctx, desk, p.Digest, GivenUp) // it expires anyway
		return nil, err
	case err != nil:
		return nil, err
	case desk == "":
		return labelled{r, s.origin.Host()}, nil
	}
	g := &granted{ReadCloser: r, source: s, digest: p.Digest, desk: desk, left: p.Size - offset, done: make(chan struct{})}
	g.ctx, g.stop = context.WithCancel(ctx)
	go g.renew()
	return g, nil
}

// labelled says where it comes from.
type labelled struct {
	io.ReadCloser
	from string
}

// From is for people.
func (l labelled) From() string { return l.from }

func (s *Source) gave(digest, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[digest] = node
}

// fail counts against a machine.
func (s *Source) fail(digest, node string, much int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failures[digest] == nil {
		s.failures[digest] = map[string]int{}
	}
	s.failures[digest][node] += much
}

func (s *Source) hasFailed(digest, node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failures[digest][node] >= tolerated
}

func (s *Source) failed(digest string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for node, n := range s.failures[digest] {
		if n >= tolerated {
			out = append(out, node)
		}
	}
	slices.Sort(out)
	return out
}

// Reject notes that what was given last of a blob was not what it should be: that
// machine is not asked for it again.
func (s *Source) Reject(p Piece) {
	s.mu.Lock()
	node := s.last[p.Digest]
	s.mu.Unlock()
	if node != "" {
		s.fail(p.Digest, node, tolerated)
	}
}

// watched notes when a machine breaks off, and tells the desk of what came whole.
type watched struct {
	io.ReadCloser
	source       *Source
	ctx          context.Context // of Read, for as long as it is read
	digest, node string
	left         int64
	sized        bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.left -= int64(n)
	if err != nil && (!errors.Is(err, io.EOF) || w.sized && w.left > 0) {
		w.source.fail(w.digest, w.node, 1)
	}
	return n, err
}

// From is for people.
func (w *watched) From() string { return w.node }

// Close tells the desk that this machine has it, too, if that is so.
func (w *watched) Close() error {
	if w.sized && w.left <= 0 {
		desk := At(append(w.source.cluster.Alive(), w.source.cluster.Self()), w.digest)
		_, _ = w.source.ask(context.WithoutCancel(w.ctx), desk, w.digest, Held) // others ask elsewhere, then
	}
	return w.ReadCloser.Close()
}

// granted reads from the registry what the desk has said this machine is to fetch.
type granted struct {
	io.ReadCloser
	source       *Source
	digest, desk string
	left         int64

	ctx  context.Context // of Read, for as long as it is read
	stop context.CancelFunc
	done chan struct{}
	full bool
}

func (g *granted) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if g.left -= int64(n); errors.Is(err, io.EOF) || g.left <= 0 && err == nil {
		g.full = true
	}
	return n, err
}

// From is for people.
func (g *granted) From() string { return g.source.origin.Host() }

func (g *granted) renew() {
	defer close(g.done)
	again := time.NewTicker(grantFor / 3)
	defer again.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-again.C:
			_, _ = g.source.ask(g.ctx, g.desk, g.digest, Fetching) // the next one tells, or it expires
		}
	}
}

// Close tells the desk how it ended.
func (g *granted) Close() error {
	g.stop()
	<-g.done
	state := GivenUp
	if g.full {
		state = Held
	}
	_, _ = g.source.ask(context.WithoutCancel(g.ctx), g.desk, g.digest, state) // it expires anyway
	return g.ReadCloser.Close()
}
