package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A world is machines with blobs, one registry, and desks, without a network.
type world struct {
	t        *testing.T
	blob     []byte
	rate     int // bytes a second that a registry or a machine gives
	mu       sync.Mutex
	machines map[string]*machine
	asked    int // bytes that the registry gave
}

type machine struct {
	*world
	name string
	desk *Desk
	dead bool
	data []byte // of the blob
	grow chan struct{}
	bad  bool // it gives rubbish
	hint bool // it has hinted that it has the blob
}

const (
	size  = 100_000
	piece = "sha256:1"
)

func newWorld(t *testing.T, n int) *world {
	w := &world{t: t, blob: bytes.Repeat([]byte("0123456789"), size/10), rate: 50_000, machines: map[string]*machine{}}
	for i := range n {
		m := &machine{world: w, name: fmt.Sprintf("n%d", i+1), grow: make(chan struct{})}
		m.desk = NewDesk(func(node string) bool { return w.alive(node) })
		w.machines[m.name] = m
	}
	return w
}

func (w *world) alive(node string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.machines[node] != nil && !w.machines[node].dead
}

func (w *world) kill(node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.machines[node].dead = true
	w.machines[node].wake()
}

// wake tells who follows this machine. The caller holds mu.
func (m *machine) wake() {
	close(m.grow)
	m.grow = make(chan struct{})
}

func (m *machine) Self() string     { return m.name }
func (m *machine) Near(string) bool { return true }

func (m *machine) Alive() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name, other := range m.machines {
		if name != m.name && !other.dead {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (m *machine) Hinted(string) (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, other := range m.machines {
		if name != m.name && !other.dead && other.hint {
			out = append(out, name)
		}
	}
	return out
}

func (m *machine) Ask(_ context.Context, node string, q Question) (Answer, error) {
	if !m.alive(node) {
		return Answer{}, errors.New("no route")
	}
	return m.machines[node].desk.Ask(m.name, q), nil
}

func (m *machine) Read(_ context.Context, node, _ string, offset int64) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	peer := m.machines[node]
	switch {
	case peer.dead:
		return nil, errors.New("no route")
	case int64(len(peer.data)) < offset || len(peer.data) == 0:
		return nil, ErrNotThere
	}
	return &stream{from: peer, at: offset}, nil
}

// A stream follows what a machine has.
type stream struct {
	from *machine
	at   int64
}

func (s *stream) Read(p []byte) (int, error) {
	m := s.from
	for {
		m.mu.Lock()
		dead, n, grow := m.dead, int64(len(m.data)), m.grow
		if !dead && s.at < n {
			got := copy(p[:min(len(p), 1000)], m.data[s.at:])
			if m.bad {
				p[0] ^= 1
			}
			s.at += int64(got)
			m.mu.Unlock()
			time.Sleep(time.Second * time.Duration(got) / time.Duration(m.rate))
			return got, nil
		}
		m.mu.Unlock()
		switch {
		case dead:
			return 0, errors.New("reset")
		case n == size:
			return 0, io.EOF
		}
		<-grow
	}
}

func (*stream) Close() error { return nil }

// A registry gives the blob, until it is down.
type registry struct {
	w    *world
	down bool
}

func (*registry) Host() string { return "registry.example" }

func (r *registry) Read(_ context.Context, _ Piece, offset int64) (io.ReadCloser, error) {
	if r.down {
		return nil, errors.New("registry: no route")
	}
	return &served{w: r.w, at: offset}, nil
}

type served struct {
	w  *world
	at int64
}

func (s *served) Read(p []byte) (int, error) {
	if s.at == size {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1000)], s.w.blob[s.at:])
	s.at += int64(n)
	s.w.mu.Lock()
	s.w.asked += n
	s.w.mu.Unlock()
	time.Sleep(time.Second * time.Duration(n) / time.Duration(s.w.rate))
	return n, nil
}

func (*served) Close() error { return nil }
func (*served) From() string { return "registry.example" }

// fetch brings the blob to a machine as the store does: what broke off goes on,
// what is damaged begins anew.
func (m *machine) fetch(s *Source) (from []string, err error) {
	p := Piece{Digest: piece, Size: size}
	for range 6 {
		m.mu.Lock()
		have := int64(len(m.data))
		m.mu.Unlock()
		var r io.ReadCloser
		if r, err = s.Read(m.t.Context(), p, have); err != nil {
			time.Sleep(250 * time.Millisecond)
			continue
		}
		from = append(from, r.(interface{ From() string }).From())
		err = m.take(r)
		_ = r.Close()
		m.mu.Lock()
		whole, right := len(m.data) == size, bytes.Equal(m.data, m.blob)
		if whole && !right {
			m.data = nil
		}
		m.mu.Unlock()
		if whole && right {
			return from, nil
		}
		if whole {
			err = errors.New("damaged")
			s.Reject(p)
		}
		time.Sleep(250 * time.Millisecond)
	}
	return from, err
}

func (m *machine) take(r io.Reader) error {
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		m.mu.Lock()
		if m.dead {
			m.mu.Unlock()
			return errors.New("dead")
		}
		m.data = append(m.data, buf[:n]...)
		m.wake()
		m.mu.Unlock()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func TestABlobLeavesTheRegistryOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		origin := &registry{w: w}
		began := time.Now()
		var all sync.WaitGroup
		for _, m := range w.machines {
			all.Go(func() {
				if from, err := m.fetch(NewSource(m, origin, nil)); err != nil {
					t.Errorf("%s: %v, from %v", m.name, err, from)
				}
			})
		}
		all.Wait()
		if w.asked != size {
			t.Errorf("the registry gave %d bytes for one blob of %d", w.asked, size)
		}
		// They follow the one that fetches: no store and forward.
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("five machines had it after %v, one alone takes 2s", d)
		}
	})
}

func TestWhoFetchesDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		origin := &registry{w: w}
		first := w.machines["n1"]
		go func() { _, _ = first.fetch(NewSource(first, origin, nil)) }()
		time.Sleep(time.Second)
		var all sync.WaitGroup
		for _, name := range []string{"n2", "n3"} {
			all.Go(func() {
				m := w.machines[name]
				if from, err := m.fetch(NewSource(m, origin, nil)); err != nil {
					t.Errorf("%s: %v, from %v", name, err, from)
				}
			})
		}
		time.Sleep(500 * time.Millisecond)
		w.kill("n1")
		all.Wait()
		time.Sleep(10 * time.Second) // for the dead one's own attempts
		if w.asked > 2*size {
			t.Errorf("the registry gave %d bytes for one blob of %d", w.asked, size)
		}
	})
}

func TestALiarIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		liar, honest := w.machines["n1"], w.machines["n2"]
		liar.data, liar.bad, honest.data = w.blob, true, w.blob
		m := w.machines["n3"]
		from, err := m.fetch(NewSource(m, nil, []string{"n1", "n2"}))
		if err != nil || slices.Index(from, "n1") != slices.IndexFunc(from, func(s string) bool { return s == "n1" }) || len(from) > 2 || from[len(from)-1] != "n2" {
			t.Errorf("it came from %v, %v; want n2 in the end, n1 at most once", from, err)
		}
	})
}

func TestTheRegistryIsDownAndAMachineHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		w.machines["n1"].data = w.blob
		at := At([]string{"n1", "n2", "n3"}, piece)
		w.machines[at].desk.Ask("n1", Question{Digest: piece, State: Held})
		m := w.machines["n2"]
		from, err := m.fetch(NewSource(m, &registry{w: w, down: true}, nil))
		if err != nil || !slices.Equal(from, []string{"n1"}) {
			t.Errorf("it came from %v, %v, want n1", from, err)
		}
		third := w.machines["n3"] // which is told of both by now
		if from, err := third.fetch(NewSource(third, &registry{w: w, down: true}, nil)); err != nil || len(from) != 1 {
			t.Errorf("it came from %v, %v", from, err)
		}
	})
}

func TestNobodyHasIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		m := w.machines["n1"]
		_, err := NewSource(m, nil, []string{"n2"}).Read(t.Context(), Piece{Digest: piece}, 0)
		var nobody *NobodyError
		if !errors.As(err, &nobody) {
			t.Errorf("got error %v, want a NobodyError", err)
		}
		// The grant that came of it keeps nobody else waiting.
		began := time.Now()
		if _, err := w.machines["n2"].fetch(NewSource(w.machines["n2"], &registry{w: w}, nil)); err != nil || time.Since(began) > 4*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestADeskThatIsGoneCostsOneDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		m := w.machines["n1"]
		w.machines["n2"].desk = nil
		w.kill("n2")
		if from, err := m.fetch(NewSource(m, &registry{w: w}, []string{"n2"})); err != nil || !slices.Equal(from, []string{"registry.example"}) {
			t.Errorf("it came from %v, %v", from, err)
		}
	})
}

func TestDesk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := map[string]bool{}
		d := NewDesk(func(n string) bool { return !dead[n] })
		ask := func(node string, state State, failed ...string) Answer {
			return d.Ask(node, Question{Digest: "x", State: state, Failed: failed})
		}
		check := func(what string, got, want Answer) {
			t.Helper()
			if got.Fetch != want.Fetch || got.Fetching != want.Fetching || !slices.Equal(got.Holders, want.Holders) {
				t.Errorf("%s: got %+v, want %+v", what, got, want)
			}
		}
		check("the first", ask("n1", Wanted), Answer{Fetch: true})
		check("the second", ask("n2", Wanted), Answer{Fetching: "n1"})
		time.Sleep(grantFor - time.Second)
		check("n1 goes on", ask("n1", Fetching), Answer{Fetch: true})
		time.Sleep(grantFor - time.Second)
		check("n1 is still believed", ask("n2", Wanted), Answer{Fetching: "n1"})
		time.Sleep(2 * time.Second)
		check("n1 is silent", ask("n2", Wanted), Answer{Fetch: true})
		check("n1 comes back", ask("n1", Wanted), Answer{Fetching: "n2"})
		check("n2 gives up", ask("n2", GivenUp), Answer{})
		check("it is n1's turn", ask("n1", Wanted), Answer{Fetch: true})
		dead["n1"] = true
		check("n1 dies", ask("n3", Wanted), Answer{Fetch: true})
		check("n3 has it", ask("n3", Held), Answer{})
		check("there is a holder", ask("n2", Wanted), Answer{Holders: []string{"n3"}})
		check("which did not give it", ask("n2", Wanted, "n3"), Answer{Fetch: true})
	})
}

func TestDesksAreSpread(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", "n4", "n5"}
	count, moved := map[string]int{}, 0
	const n = 5000
	for i := range n {
		d := fmt.Sprint("sha256:", i)
		at := At(nodes, d)
		count[at]++
		if at != "n5" && At(nodes[:4], d) != at {
			moved++
		}
	}
	for _, node := range nodes {
		if c := count[node]; c < n/5*8/10 || c > n/5*12/10 {
			t.Errorf("%s has %d desks of %d, want about a fifth", node, c, n)
		}
	}
	if moved > 0 {
		t.Errorf("%d desks moved that were not at the machine that left", moved)
	}
}

func TestADeskForgets(t *testing.T) {
	d := NewDesk(func(string) bool { return true })
	for i := range maxBlobs + 100 {
		d.Ask("n1", Question{Digest: fmt.Sprint(i), State: Wanted})
	}
	if n := len(d.blobs); n > maxBlobs {
		t.Errorf("it remembers %d blobs, want at most %d", n, maxBlobs)
	}
	for i := range 100 {
		d.Ask(fmt.Sprint("n", i), Question{Digest: "x", State: Held})
	}
	if n := len(d.blobs["x"].holders); n > maxHolders {
		t.Errorf("it remembers %d holders, want at most %d", n, maxHolders)
	}
}
