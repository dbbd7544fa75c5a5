// Package registry owns the way to registries: it finds what a name means there
// and reads blobs, with the credentials that are given, by the rules that the
// machine's administrator has written down. It stands on containerd's resolver.
//
// What is kept of it all is the image store's affair.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skein-dev/skein/runtime/image"
)

// Options are what a Client needs.
type Options struct {
	// ConfigDir has a folder for each registry that is not simply reached by
	// https: HOST or HOST_PORT_ with a hosts.toml (mirrors, plain http, CAs,
	// client certificates) or, as docker has it, with *.crt, *.cert and *.key.
	// It is containerd's certs.d, and read anew for each image.
	ConfigDir string
	// Keys are this machine's own credentials; nil: none.
	Keys *File
	// Dial connects to a registry in the place of this package, which then cannot
	// refuse any address. nil: the network, see guard.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Logger *slog.Logger
}

// A Client reaches registries. All its methods may be called at the same time.
type Client struct {
	opt Options
	log *log.Entry
}

// New returns a Client.
func New(opt Options) *Client {
	return &Client{opt: opt, log: image.Bridge(opt.Logger)}
}

// headerWait bounds how long a registry may think before it answers.
const headerWait = 30 * time.Second

// A Source is one repository of one registry, with the credentials to it. It is
// an image.Fetcher.
type Source struct {
	name     reference.Named
	host     string // of the registry, as the name has it
	resolver remotes.Resolver
	fetcher  remotes.Fetcher
	log      *log.Entry
	close    []func()

	mu   sync.Mutex
	told *Error // what the registry said last, if that was a refusal
}

// Open prepares to read the image that ref names. The credentials that the
// machine has come after those given. Nothing is asked of the registry yet.
// Close the Source after use.
func (c *Client) Open(ctx context.Context, ref string, keys ...Keys) (*Source, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, &image.InvalidError{Err: fmt.Errorf("%q is no reference to an image: %w", ref, err)}
	}
	s := &Source{name: reference.TagNameOnly(named), host: reference.Domain(named), log: c.log}
	ctx = log.WithLogger(ctx, c.log)
	hosts, err := c.hosts(ctx, s, keys)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", s.host, err)
	}
	s.resolver = docker.NewResolver(docker.ResolverOptions{
		Hosts:   func(string) ([]docker.RegistryHost, error) { return slices.Clone(hosts), nil },
		Headers: http.Header{"User-Agent": {"skein"}},
	})
	if s.fetcher, err = s.resolver.Fetcher(ctx, s.name.String()); err != nil {
		return nil, fmt.Errorf("registry %s: %w", s.host, err)
	}
	return s, nil
}

// hosts finds whom to ask for an image: mirrors first, as they are written down.
func (c *Client) hosts(ctx context.Context, s *Source, keys []Keys) ([]docker.RegistryHost, error) {
	if c.opt.Keys != nil {
		own, err := c.opt.Keys.load()
		if err != nil {
			return nil, err
		}
		keys = append(slices.Clone(keys), own)
	}
	way := &way{source: s, dial: c.opt.Dial}
	options := config.HostOptions{
		Credentials: func(host string) (string, string, error) {
			return find(ctx, keys, host, reference.Path(s.name))
		},
		DefaultTLS:   nil,
		UpdateClient: way.take,
	}
	if c.opt.ConfigDir != "" {
		options.HostDir = config.HostDirFromRoot(filepath.Clean(c.opt.ConfigDir))
	}
	hosts, err := config.ConfigureHosts(ctx, options)(s.host)
	if err != nil {
		return nil, err
	}
	if len(hosts) == 0 {
		return nil, errors.New("the machine's configuration leaves no host to ask")
	}
	configured := c.configured(s.host)
	for _, h := range hosts {
		way.learn(h, configured)
	}
	return hosts, nil
}

// configured tells whether the administrator has written anything down about a
// registry.
func (c *Client) configured(host string) bool {
	if c.opt.ConfigDir == "" {
		return false
	}
	_, err := config.HostDirFromRoot(filepath.Clean(c.opt.ConfigDir))(host)
	return err == nil
}

// Close lets go of connections.
func (s *Source) Close() {
	for _, f := range s.close {
		f()
	}
}

// Host is the registry's, as the image's name has it.
func (s *Source) Host() string { return s.host }

// Resolve asks what the name means now. Size is that of the manifest alone. An
// *Error has the registry's reason.
func (s *Source) Resolve(ctx context.Context) (image.Descriptor, error) {
	ctx, cancel := context.WithTimeout(log.WithLogger(ctx, s.log), 2*headerWait)
	defer cancel()
	_, desc, err := s.resolver.Resolve(ctx, s.name.String())
	if err != nil {
		return image.Descriptor{}, s.explain(ctx, err)
	}
	if err := desc.Digest.Validate(); err != nil || desc.Digest.Algorithm() != digest.SHA256 {
		return image.Descriptor{}, &Error{Host: s.host, Reason: "answers without a SHA-256 digest"}
	}
	return image.Descriptor{Digest: desc.Digest.String(), MediaType: desc.MediaType, Size: desc.Size}, nil
}

// unknownSize is more than any blob has: containerd wants a size to be there.
const unknownSize = 1 << 50

// Blob reads a manifest or a blob from an offset on.
func (s *Source) Blob(ctx context.Context, d image.Descriptor, offset int64) (io.ReadCloser, error) {
	ctx = log.WithLogger(ctx, s.log)
	desc := ocispec.Descriptor{Digest: digest.Digest(d.Digest), MediaType: d.MediaType, Size: d.Size}
	if desc.Size == 0 {
		desc.Size = unknownSize
	}
	rc, err := s.fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, s.explain(ctx, err)
	}
	if seeker, ok := rc.(io.Seeker); ok && offset > 0 {
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(s.explain(ctx, err), rc.Close())
		}
	}
	e := &explained{ReadCloser: rc, source: s, ctx: ctx}
	if offset > 0 {
		e.whole = func() (io.ReadCloser, error) {
			rc, err := s.fetcher.Fetch(ctx, desc)
			if err == nil {
				_, err = io.CopyN(io.Discard, rc, offset)
			}
			return rc, err
		}
	}
	return e, nil
}

// explained says in our words why a stream broke off.
type explained struct {
	io.ReadCloser
	source *Source
	ctx    context.Context // of Blob, for as long as it is read
	// whole reads from the beginning up to where this stream begins: for a registry
	// that knows no ranges. nil: it was tried, or there is no need.
	whole func() (io.ReadCloser, error)
}

// From tells people which registry it is.
func (e *explained) From() string { return e.source.host }

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if n > 0 {
		e.whole = nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	err = e.source.explain(e.ctx, err)
	var refused *Error
	if e.whole == nil || !errors.As(err, &refused) || refused.Status != http.StatusRequestedRangeNotSatisfiable {
		return n, err
	}
	rc, werr := e.whole()
	if e.whole = nil; werr != nil {
		return n, errors.Join(err, werr)
	}
	_ = e.ReadCloser.Close()
	e.ReadCloser = rc
	return e.ReadCloser.Read(p)
}

// A way is how requests of one Source travel.
type way struct {
	source *Source
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)

	mu      sync.Mutex
	allowed map[string]bool // host:port that are written down
	plain   map[string]bool // host:port that are meant to be asked by plain http
}

// learn notes a host that requests may go to.
func (w *way) learn(h docker.RegistryHost, configured bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allowed == nil {
		w.allowed, w.plain = map[string]bool{}, map[string]bool{}
	}
	at := withPort(h.Host, h.Scheme)
	w.allowed[at] = w.allowed[at] || configured
	w.plain[withPort(h.Host, "http")] = w.plain[withPort(h.Host, "http")] || h.Scheme == "http" || docker.IsLocalhost(h.Host)
}

func (w *way) mayReach(addr string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.allowed[addr]
}

func (w *way) mayBePlain(addr string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.plain[addr]
}

func withPort(host, scheme string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	if scheme == "http" {
		return net.JoinHostPort(host, "80")
	}
	return net.JoinHostPort(host, "443")
}

// take sets up a client that containerd has made for a host.
func (w *way) take(c *http.Client) error {
	t, ok := c.Transport.(*http.Transport)
	if !ok {
		return nil // it is one of ours already
	}
	t.DialContext = w.dial
	if w.dial == nil {
		t.DialContext = guard(w.mayReach)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.MinVersion = tls.VersionTLS12
	t.ResponseHeaderTimeout = headerWait
	t.DisableCompression = true // what is digested is what was sent
	w.source.close = append(w.source.close, t.CloseIdleConnections)
	c.Transport = &careful{way: w, base: t}
	return nil
}
