package agent

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/pull"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/runtime/image"
)

// isAlive tells whether a machine, this one or another, is there by gossip's word.
func (a *Agent) isAlive(name string) bool {
	if name == a.cfg.Name {
		return true
	}
	m, ok := a.gossip.Member(name)
	return ok && m.State == gossip.StateAlive
}

// mesh reaches the other machines for the pieces of images.
type mesh struct{ images *images }

func (m mesh) Self() string { return m.images.agent.cfg.Name }

func (m mesh) Alive() []string {
	var out []string
	for _, member := range m.images.agent.gossip.Members() {
		if member.Name != m.Self() && member.State == gossip.StateAlive && m.images.agent.knows(member.Name) {
			out = append(out, member.Name)
		}
	}
	return out
}

func (m mesh) Near(node string) bool {
	a := m.images.agent
	return a.zone(node) == a.zone(a.cfg.Name)
}

// Hinted lists who has hinted at a piece. It is advice.
func (m mesh) Hinted(digest string) []string {
	var out []string
	for _, node := range m.Alive() {
		if pull.Hinted(m.images.agent.gossip.Hint(node), digest) {
			out = append(out, node)
		}
	}
	return out
}

// hintPause is how much time passes between two hints at the least.
const hintPause = 2 * time.Second

// tellPieces hints the others at the pieces that are here, until ctx ends.
func (i *images) tellPieces(ctx context.Context) error {
	for {
		changed := i.Changed()
		list, err := i.store.Blobs(ctx)
		if err == nil {
			err = i.agent.gossip.Tell(pull.Hint(list, gossip.MaxHint))
		}
		if err != nil && ctx.Err() == nil {
			i.agent.log.Warn("cannot tell which pieces of images are here", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(hintPause):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// verify looks at what is here after the machine went down, besides all else.
func (i *images) verify(ctx context.Context) error {
	if err := i.store.Verify(ctx); err != nil && ctx.Err() == nil {
		i.agent.log.Warn("cannot verify the images of this machine", "err", err)
	}
	i.touched()
	return nil
}

// Read streams a piece from another machine.
func (m mesh) Read(ctx context.Context, node, digest string, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := m.images.agent.peers.Client(node).Blob(ctx, &skeinv1.BlobRequest{Digest: digest, Offset: offset})
	r := &blobReader{cancel: cancel}
	if err == nil {
		r.receive, r.close = stream.Receive, stream.Close
		_, err = stream.Receive() // its size, or why there is none
	}
	if err != nil {
		_ = r.Close()
		if connect.CodeOf(err) == connect.CodeNotFound {
			err = errors.Join(pull.ErrNotThere, err)
		}
		return nil, err
	}
	return r, nil
}

// Ask asks the desk at a machine.
func (m mesh) Ask(ctx context.Context, node string, q pull.Question) (pull.Answer, error) {
	req := &skeinv1.FindBlobRequest{Digest: q.Digest, State: blobStates[q.State], Failed: q.Failed}
	if node == m.Self() {
		return answerOf(m.images.Find(node, req)), nil
	}
	res, err := m.images.agent.peers.Client(node).FindBlob(ctx, req)
	if err != nil {
		return pull.Answer{}, err
	}
	return answerOf(res), nil
}

var blobStates = map[pull.State]skeinv1.BlobState{
	pull.Wanted: skeinv1.BlobState_BLOB_STATE_WANTED, pull.Fetching: skeinv1.BlobState_BLOB_STATE_FETCHING,
	pull.Held: skeinv1.BlobState_BLOB_STATE_HELD, pull.GivenUp: skeinv1.BlobState_BLOB_STATE_GIVEN_UP,
}

func answerOf(res *skeinv1.FindBlobResponse) pull.Answer {
	return pull.Answer{Fetch: res.GetFetch(), Holders: res.GetHolders(), Fetching: res.GetFetching()}
}

// Find answers for the desk at this machine.
func (i *images) Find(node string, req *skeinv1.FindBlobRequest) *skeinv1.FindBlobResponse {
	q := pull.Question{Digest: req.GetDigest(), Failed: req.GetFailed(), State: pull.Wanted}
	for state, said := range blobStates {
		if said == req.GetState() {
			q.State = state
		}
	}
	a := i.desk.Ask(node, q)
	return &skeinv1.FindBlobResponse{Fetch: a.Fetch, Holders: a.Holders, Fetching: a.Fetching}
}

// blobReader reads a stream of messages as the bytes they carry.
type blobReader struct {
	receive func() (*skeinv1.BlobResponse, error)
	close   func() error
	cancel  context.CancelFunc
	rest    []byte
}

func (b *blobReader) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		msg, err := b.receive()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF // readers know the bare one only
		}
		if err != nil {
			return 0, err
		}
		b.rest = msg.GetChunk()
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close ends the stream; a peer that has more to say is cut short.
func (b *blobReader) Close() error {
	b.cancel()
	if b.close != nil {
		_ = b.close() // it was cancelled, and says so
	}
	return nil
}

// pieces lets the store read by a Source.
type pieces struct{ source *pull.Source }

func (p pieces) Blob(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	return p.source.Read(ctx, pull.Piece(d), offset)
}

func (p pieces) Reject(d image.Descriptor) { p.source.Reject(pull.Piece(d)) }

// registryOrigin lets a Source read at a registry.
type registryOrigin struct{ Repository }

func (o registryOrigin) Read(ctx context.Context, p pull.Piece, offset int64) (io.ReadCloser, error) {
	return o.Blob(ctx, image.Descriptor(p), offset)
}
