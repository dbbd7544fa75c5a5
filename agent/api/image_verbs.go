package api

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Holdings are the images of this machine, for people.
type Holdings interface {
	// Holds lists what is here.
	Holds(ctx context.Context) ([]*skeinv1.HeldImage, error)
	// PullHere brings an image here and tells how far it is, at the end for certain.
	PullHere(ctx context.Context, ref string, tell func(*skeinv1.ImagePull) error) error
	// GiveUp takes images away, or only says which.
	GiveUp(ctx context.Context, req *skeinv1.GiveUpImagesRequest) ([]*skeinv1.ImageEntry, error)
	// BeginPush begins to take an archive in of which parts may be here.
	BeginPush(ctx context.Context, entries []*skeinv1.PushEntry) (Push, error)
	// Having lists other machines that may have a blob, and ReadFrom reads it there.
	Having(digest string) []string
	ReadFrom(ctx context.Context, node, digest string) (io.ReadCloser, error)
	// Touched tells that what is here has changed.
	Touched()
	// Familiar is the form of a reference that images are listed by.
	Familiar(ref string) (string, error)
}

type (
	imager struct {
		*Server
		skeinv1connect.UnimplementedImageServiceHandler
	}
	imagePeer struct {
		*Server
		skeinv1connect.UnimplementedImagePeerServiceHandler
	}
)

// nodeWait bounds how long one node may take to say what it holds or to give it up.
const nodeWait = 20 * time.Second

// everyNode asks all nodes that are there, side by side, and names those that did
// not answer.
func everyNode[T any](ctx context.Context, s *Server, ask func(ctx context.Context, node string) (T, error)) (answers map[string]T, silent []string) {
	ctx, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	answers = map[string]T{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, row := range s.cfg.Consensus.Store().List(object.KindNode, "", "") {
		all.Go(func() {
			answer, err := ask(ctx, row.Key.Name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				s.log.Debug("node does not say what images it has", "node", row.Key.Name, "err", err)
				silent = append(silent, row.Key.Name)
				return
			}
			answers[row.Key.Name] = answer
		})
	}
	all.Wait()
	slices.Sort(silent)
	return answers, silent
}

// ListImages joins what the nodes hold.
func (c *imager) ListImages(ctx context.Context, req *skeinv1.ListImagesRequest) (*skeinv1.ListImagesResponse, error) {
	if err := need(ctx, RoleView); err != nil {
		return nil, err
	}
	held, silent := everyNode(ctx, c.Server, func(ctx context.Context, node string) ([]*skeinv1.HeldImage, error) {
		if node == c.cfg.Name {
			return c.cfg.Holdings.Holds(ctx)
		}
		res, err := c.cfg.Peers.Images(node).HeldImages(ctx, &skeinv1.HeldImagesRequest{})
		return res.GetImages(), err
	})
	out := &skeinv1.ListImagesResponse{Images: joinImages(held), Silent: silent}
	out.Text = drawImages(out.GetImages(), req, c.cfg.Now())
	return out, nil
}

// joinImages lists each image once, with the nodes that have it. Bytes are shared
// that are in a layer of more than one image.
func joinImages(held map[string][]*skeinv1.HeldImage) []*skeinv1.ImageEntry {
	byDigest := map[string]*skeinv1.ImageEntry{}
	blobs := map[string]map[string]int64{} // of each image
	users := map[string]map[string]bool{}  // of each blob: images
	for node, list := range held {
		for _, h := range list {
			img := h.GetImage()
			e := byDigest[img.GetDigest()]
			if e == nil {
				e = &skeinv1.ImageEntry{Digest: img.GetDigest(), Size: img.GetSize()}
				byDigest[img.GetDigest()], blobs[img.GetDigest()] = e, map[string]int64{}
			}
			e.Nodes = append(e.Nodes, node)
			e.UsedUnix = max(e.GetUsedUnix(), img.GetUsedUnix())
			for _, ref := range img.GetReferences() {
				if !slices.Contains(e.References, ref) {
					e.References = append(e.References, ref)
				}
			}
			for _, b := range h.GetBlobs() {
				blobs[img.GetDigest()][b.GetDigest()] = b.GetSize()
				if users[b.GetDigest()] == nil {
					users[b.GetDigest()] = map[string]bool{}
				}
				users[b.GetDigest()][img.GetDigest()] = true
			}
		}
	}
	out := make([]*skeinv1.ImageEntry, 0, len(byDigest))
	for digest, e := range byDigest {
		for blob, size := range blobs[digest] {
			if len(users[blob]) > 1 {
				e.Shared += size
			}
		}
		slices.Sort(e.References)
		slices.Sort(e.Nodes)
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *skeinv1.ImageEntry) int {
		return cmp.Or(cmp.Compare(strings.Join(a.GetReferences(), " "), strings.Join(b.GetReferences(), " ")), cmp.Compare(a.GetDigest(), b.GetDigest()))
	})
	return out
}

func drawImages(list []*skeinv1.ImageEntry, req *skeinv1.ListImagesRequest, now time.Time) []byte {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	if !req.GetNoHeaders() {
		_, _ = fmt.Fprintln(w, "REFERENCE\tDIGEST\tSIZE\tSHARED\tNODES\tUSED")
	}
	for _, e := range list {
		nodes := fmt.Sprint(len(e.GetNodes()))
		if req.GetWide() {
			nodes = strings.Join(e.GetNodes(), ",")
		}
		for _, ref := range e.GetReferences() {
			_, _ = fmt.Fprintf(w, "%s\t%.12s\t%.1fMB\t%.1fMB\t%s\t%s\n", ref, strings.TrimPrefix(e.GetDigest(), "sha256:"),
				float64(e.GetSize())/1e6, float64(e.GetShared())/1e6, nodes, duration.HumanDuration(max(0, now.Sub(time.Unix(e.GetUsedUnix(), 0)))))
		}
	}
	_ = w.Flush()
	return out.Bytes()
}

// PullImage has nodes pull an image.
func (c *imager) PullImage(ctx context.Context, req *skeinv1.PullImageRequest, stream skeinv1connect.ImageServicePullImageServerStream) error {
	if err := need(ctx, RoleEdit); err != nil {
		return err
	}
	if err := object.ValidImage(req.GetReference()); err != nil {
		return badRequest("%q: %v", req.GetReference(), err)
	}
	nodes, err := c.pullers(req)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	tell := func(p *skeinv1.ImagePull) error {
		mu.Lock()
		defer mu.Unlock()
		return stream.Send(&skeinv1.PullImageResponse{Pull: p})
	}
	var all sync.WaitGroup
	for _, node := range nodes {
		all.Go(func() {
			if err := c.pullOn(ctx, node, req.GetReference(), tell); err != nil && ctx.Err() == nil {
				_ = tell(&skeinv1.ImagePull{Node: node, Image: req.GetReference(), Done: true, Error: c.said(ctx, err)}) // the person may be gone
			}
		})
	}
	all.Wait()
	return ctx.Err()
}

func (c *imager) pullOn(ctx context.Context, node, ref string, tell func(*skeinv1.ImagePull) error) error {
	if node == c.cfg.Name {
		return c.cfg.Holdings.PullHere(ctx, ref, tell)
	}
	stream, err := c.cfg.Peers.Images(node).PullHere(ctx, &skeinv1.PullHereRequest{Reference: ref})
	if err != nil {
		return c.unreachable(node, err)
	}
	defer func() { _ = stream.Close() }()
	for {
		msg, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.unreachable(node, err)
		}
		if err := tell(msg.GetPull()); err != nil {
			return err
		}
	}
}

// pullers are the nodes that a request means: those it names, all that are ready,
// or the one whose disk is emptiest.
func (c *imager) pullers(req *skeinv1.PullImageRequest) ([]string, error) {
	for _, name := range req.GetNodes() {
		if _, ok := c.node(name); !ok {
			return nil, notFound(&skeinv1.ObjectRef{Kind: "node", Name: name})
		}
	}
	if len(req.GetNodes()) > 0 {
		return req.GetNodes(), nil
	}
	var ready []string
	health := c.cfg.Peers.Health()
	for _, row := range c.cfg.Consensus.Store().List(object.KindNode, "", "") {
		n, err := object.Decode[corev1.Node](row)
		if err == nil && !n.Spec.Unschedulable && health[n.Name].State == "alive" {
			ready = append(ready, n.Name)
		}
	}
	slices.SortFunc(ready, func(a, b string) int {
		return cmp.Or(cmp.Compare(health[a].Disk, health[b].Disk), cmp.Compare(a, b))
	})
	switch {
	case len(ready) == 0:
		return nil, refuse(connect.CodeFailedPrecondition, exitFailed, "see how they are with \"skein node ls\"", "no node could take the image")
	case req.GetAll():
		return ready, nil
	}
	return ready[:1], nil
}

// needed tells which references somebody in the cluster names: Pods, and the
// templates of Deployments and of Revisions that may be gone back to.
func (s *Server) needed() (map[string][]string, error) {
	out := map[string][]string{}
	note := func(spec *corev1.PodSpec, who string) {
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
			if ref, err := s.cfg.Holdings.Familiar(c.Image); err == nil && !slices.Contains(out[ref], who) {
				out[ref] = append(out[ref], who)
			}
		}
	}
	for _, kind := range []string{object.KindPod, object.KindDeployment, object.KindRevision} {
		for _, row := range s.cfg.Consensus.Store().List(kind, "", "") {
			spec, err := object.PodSpec(row)
			if err != nil {
				return nil, err
			}
			note(spec, strings.ToLower(kind)+"/"+row.Key.Name)
		}
	}
	return out, nil
}

// RemoveImage takes a name away, in the log and on every node.
func (c *imager) RemoveImage(ctx context.Context, req *skeinv1.RemoveImageRequest) (*skeinv1.RemoveImageResponse, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	if !c.cfg.Consensus.IsLeader() {
		return nil, errNotLeader
	}
	ref, err := c.cfg.Holdings.Familiar(req.GetReference())
	if err != nil {
		return nil, badRequest("%v", err)
	}
	used, err := c.needed()
	if err != nil {
		return nil, err
	}
	if by := used[ref]; len(by) > 0 && !req.GetForce() {
		return nil, refuse(connect.CodeFailedPrecondition, exitUnsafe, "delete what uses it first, or take the name away all the same with --force",
			"image %s is used by %s", ref, some(by, 3))
	}
	known, err := c.unname(ctx, ref)
	if err != nil {
		return nil, err
	}
	out := &skeinv1.RemoveImageResponse{}
	out.Nodes, out.Silent = c.giveUp(ctx, &skeinv1.GiveUpImagesRequest{References: []string{ref}})
	if !known && len(out.GetNodes()) == 0 && len(out.GetSilent()) == 0 {
		return nil, refuse(connect.CodeNotFound, exitFailed, "see what there is with \"skein image ls\"", "no node has image %s", ref)
	}
	return out, nil
}

// some names a few of many.
func some(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:n], ", "), len(list)-n)
}

// unname takes a reference's meaning away, and tells whether it had one.
func (s *Server) unname(ctx context.Context, ref string) (bool, error) {
	key := state.Key{Kind: object.KindImage, Name: object.ImageName(ref)}
	row, ok := s.cfg.Consensus.Store().Get(key)
	if !ok {
		return false, nil
	}
	_, err := s.cfg.Consensus.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{object.Delete(key, row.Version)}})
	return true, err
}

// PruneImages takes away what nobody needs.
func (c *imager) PruneImages(ctx context.Context, req *skeinv1.PruneImagesRequest) (*skeinv1.PruneImagesResponse, error) {
	if err := need(ctx, RoleEdit); err != nil {
		return nil, err
	}
	if !c.cfg.Consensus.IsLeader() {
		return nil, errNotLeader
	}
	if req.GetOlderThanMs() < 0 {
		return nil, badRequest("images cannot be unused for less than no time")
	}
	used, err := c.needed()
	if err != nil {
		return nil, err
	}
	ask := &skeinv1.GiveUpImagesRequest{All: req.GetAll(), OlderThanMs: req.GetOlderThanMs(), DryRun: req.GetDryRun()}
	for ref := range used {
		ask.Keep = append(ask.Keep, ref)
	}
	out := &skeinv1.PruneImagesResponse{}
	out.Nodes, out.Silent = c.giveUp(ctx, ask)
	if req.GetDryRun() {
		return out, nil
	}
	return out, c.forgetNames(ctx, out)
}

// forgetNames takes away the meaning of references that no node has any more.
func (c *imager) forgetNames(ctx context.Context, pruned *skeinv1.PruneImagesResponse) error {
	if len(pruned.GetSilent()) > 0 {
		return nil // who did not answer may have it
	}
	left := map[string]bool{}
	held, silent := everyNode(ctx, c.Server, func(ctx context.Context, node string) ([]*skeinv1.HeldImage, error) {
		if node == c.cfg.Name {
			return c.cfg.Holdings.Holds(ctx)
		}
		res, err := c.cfg.Peers.Images(node).HeldImages(ctx, &skeinv1.HeldImagesRequest{})
		return res.GetImages(), err
	})
	if len(silent) > 0 {
		return nil
	}
	for _, e := range joinImages(held) {
		for _, ref := range e.GetReferences() {
			left[ref] = true
		}
	}
	for _, node := range pruned.GetNodes() {
		for _, e := range node.GetImages() {
			for _, ref := range e.GetReferences() {
				if left[ref] {
					continue
				}
				left[ref] = true
				if _, err := c.unname(ctx, ref); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// giveUp has every node give images up.
func (s *Server) giveUp(ctx context.Context, req *skeinv1.GiveUpImagesRequest) (out []*skeinv1.GivenUp, silent []string) {
	gone, silent := everyNode(ctx, s, func(ctx context.Context, node string) ([]*skeinv1.ImageEntry, error) {
		if node == s.cfg.Name {
			return s.cfg.Holdings.GiveUp(ctx, req)
		}
		res, err := s.cfg.Peers.Images(node).GiveUpImages(ctx, req)
		return res.GetImages(), err
	})
	for node, images := range gone {
		if len(images) > 0 {
			out = append(out, &skeinv1.GivenUp{Node: node, Images: images})
		}
	}
	slices.SortFunc(out, func(a, b *skeinv1.GivenUp) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	return out, silent
}

// HeldImages tells a voter what is here.
func (p *imagePeer) HeldImages(ctx context.Context, _ *skeinv1.HeldImagesRequest) (*skeinv1.HeldImagesResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	list, err := p.cfg.Holdings.Holds(ctx)
	return &skeinv1.HeldImagesResponse{Images: list}, err
}

// PullHere pulls for a person whom a voter has asked who that is.
func (p *imagePeer) PullHere(ctx context.Context, req *skeinv1.PullHereRequest, stream skeinv1connect.ImagePeerServicePullHereServerStream) error {
	if err := p.fromVoter(ctx); err != nil {
		return err
	}
	return p.cfg.Holdings.PullHere(ctx, req.GetReference(), func(pull *skeinv1.ImagePull) error {
		return stream.Send(&skeinv1.PullHereResponse{Pull: pull})
	})
}

// GiveUpImages gives up what a voter says.
func (p *imagePeer) GiveUpImages(ctx context.Context, req *skeinv1.GiveUpImagesRequest) (*skeinv1.GiveUpImagesResponse, error) {
	if err := p.fromVoter(ctx); err != nil {
		return nil, err
	}
	list, err := p.cfg.Holdings.GiveUp(ctx, req)
	return &skeinv1.GiveUpImagesResponse{Images: list}, err
}
