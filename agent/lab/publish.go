package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// Services are reached on the loopback of the machine that the lab is on: by their
// node ports, and by the ports that they are published with. What is there is asked
// for every publishEvery.
const (
	publishEvery = time.Second
	publishFile  = "published.json"
)

// An outlet is a port of the machine's loopback that leads to a Service.
type outlet struct {
	Port    int32  `json:"port"`
	Service string `json:"service"`           // namespace/name
	Trouble string `json:"trouble,omitempty"` // why nobody listens there; empty: somebody does

	addr string // where the Service is, seen from a node; empty: at NodePort of the node
	node int32  // that port
}

// A publisher listens for Services.
type publisher struct {
	name string
	log  *slog.Logger

	open    map[int32]*opened
	trouble map[outlet]string // that the log knows of
	told    string            // what was written down last
}

type opened struct {
	outlet
	cancel context.CancelFunc
	done   chan struct{}
}

// run keeps the outlets as the cluster's Services want them until ctx ends.
func (p *publisher) run(ctx context.Context) error {
	p.open = map[int32]*opened{}
	defer func() {
		for _, o := range p.open {
			o.close()
		}
	}()
	for pause(ctx, publishEvery); ctx.Err() == nil; pause(ctx, publishEvery) {
		l, err := Look(p.name)
		if err != nil {
			continue // it is being taken down
		}
		want, err := l.outlets(ctx)
		if err != nil {
			continue // nobody answers now; what was there stays
		}
		if err := p.set(ctx, l.dir, want); err != nil {
			p.log.Warn("cannot write down what is published", "err", err)
		}
	}
	return nil
}

// set opens and closes outlets, and writes down in the lab's folder what became of
// them. Outlets that come with trouble are only written down.
func (p *publisher) set(ctx context.Context, dir string, want []outlet) error {
	for port, o := range p.open {
		if !slices.Contains(want, o.outlet) {
			o.close()
			delete(p.open, port)
		}
	}
	trouble := map[outlet]string{}
	list := make([]outlet, 0, len(want))
	for _, o := range want {
		plain := o
		if o.Trouble == "" && p.open[o.Port] == nil {
			ln, err := net.Listen("tcp4", loopback(int(o.Port)))
			if err != nil {
				o.Trouble = err.Error()
			} else {
				p.serve(ctx, ln, o)
			}
		}
		if o.Trouble != "" {
			if trouble[plain] = o.Trouble; p.trouble[plain] != o.Trouble { // it is tried each time, and told once
				p.log.Warn("cannot publish", "port", o.Port, "service", o.Service, "err", o.Trouble)
			}
		}
		list = append(list, o)
	}
	p.trouble = trouble
	text, err := json.Marshal(list)
	if err != nil || string(text) == p.told {
		return err
	}
	if err := writeAside(filepath.Join(dir, publishFile), text); err != nil {
		return err
	}
	p.told = string(text)
	return nil
}

func (p *publisher) serve(ctx context.Context, ln net.Listener, o outlet) {
	ctx, cancel := context.WithCancel(ctx)
	one := &opened{outlet: o, cancel: cancel, done: make(chan struct{})}
	p.open[o.Port] = one
	to := &pass{name: p.name, log: p.log, to: func(n *node) string {
		if o.addr != "" {
			return o.addr
		}
		return netip.AddrPortFrom(n.addr(), uint16(o.node)).String() //nolint:gosec // a port
	}}
	go func() {
		defer close(one.done)
		if err := to.serve(ctx, ln); err != nil {
			p.log.Warn("a published port is closed", "port", o.Port, "err", err)
		}
	}()
}

func (o *opened) close() {
	o.cancel()
	<-o.done
}

// outlets asks the cluster for what is to be reached from here.
func (l *Lab) outlets(ctx context.Context) ([]outlet, error) {
	req := &skeinv1.GetRequest{Kind: "services", AllNamespaces: true, Format: skeinv1.Format_FORMAT_JSON}
	var errs []error
	for _, n := range l.Nodes {
		if n.Killed || l.held(n) || l.removed(n) {
			continue
		}
		res, err := call(ctx, l, n, func(ctx context.Context, c skeinv1connect.ClusterServiceClient) (*skeinv1.GetResponse, error) {
			return c.Get(ctx, req)
		})
		if err == nil {
			return parseOutlets(res.GetDocument())
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, errors.New("no node has an agent"))...)
}

// parseOutlets lists by port what is to be reached. A port has one Service: a node
// port is the cluster's choice and comes first, then whoever asked first. The others
// are listed with their trouble.
func parseOutlets(doc []byte) ([]outlet, error) {
	var list struct{ Items []corev1.Service }
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, fmt.Errorf("read the list of Services: %w", err)
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Service) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	var out []outlet
	for i := range list.Items {
		for _, p := range list.Items[i].Spec.Ports {
			if p.NodePort > 0 && p.Protocol == corev1.ProtocolTCP {
				out = append(out, outlet{Port: p.NodePort, Service: nameOf(&list.Items[i]), node: p.NodePort})
			}
		}
	}
	for i := range list.Items {
		s := &list.Items[i]
		ports, err := object.Published(s)
		if err != nil || s.Spec.ClusterIP == "" {
			continue // it was validated, and will have an address
		}
		for _, p := range ports {
			out = append(out, outlet{Port: p.Host, Service: nameOf(s), addr: net.JoinHostPort(s.Spec.ClusterIP, fmt.Sprint(p.Port.Port))})
		}
	}
	has := map[int32]string{}
	for i := range out {
		if who, taken := has[out[i].Port]; taken {
			out[i].Trouble = "service " + who + " has this port"
		} else {
			has[out[i].Port] = out[i].Service
		}
	}
	slices.SortStableFunc(out, func(a, b outlet) int { return cmp.Compare(a.Port, b.Port) })
	return out, nil
}

func nameOf(s *corev1.Service) string { return s.Namespace + "/" + s.Name }

// showPublished lists what is reached on the loopback.
func (l *Lab) showPublished(w io.Writer) error {
	text, err := os.ReadFile(filepath.Join(l.dir, publishFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var list []outlet
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil || len(list) == 0 {
		return err
	}
	_, alive := l.forwarder()
	_, _ = fmt.Fprintln(w) // the last write tells of errors
	for _, o := range list {
		if !alive { // what it has written down is not so any more
			o.Trouble = "the lab's forwarder is not running"
		}
		line := loopback(int(o.Port)) + " leads to service " + o.Service
		if o.Trouble != "" {
			line = loopback(int(o.Port)) + " does not lead to service " + o.Service + ": " + o.Trouble
		}
		if _, err = fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
