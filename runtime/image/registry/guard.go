package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"syscall"
	"time"
)

// An image's name, a redirect and the place where tokens are given out all come
// from strangers. What this machine answers to itself, or its cloud to it, is not
// theirs to ask.

// guard returns how to dial so that the addresses which names resolve to are
// looked at, each just before it is used: those of this machine and of its link
// are refused, unless allowed says of the host and port that they are meant.
func guard(allowed func(addr string) bool) func(ctx context.Context, network, addr string) (net.Conn, error) {
	proxies := proxies()
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
		if !allowed(addr) && !proxies[addr] {
			d.Control = func(_, resolved string, _ syscall.RawConn) error { return forbidden(addr, resolved) }
		}
		return d.DialContext(ctx, network, addr)
	}
}

// A forbiddenError says that a name leads to where no registry is looked for.
type forbiddenError struct{ host, addr string }

func (e *forbiddenError) Error() string {
	return fmt.Sprintf("%s is at %s, where a registry has to be written down to be asked", e.host, e.addr)
}

func forbidden(host, resolved string) error {
	at, err := netip.ParseAddrPort(resolved)
	if err != nil {
		return &forbiddenError{host, resolved}
	}
	if a := at.Addr().Unmap(); !a.IsGlobalUnicast() {
		return &forbiddenError{host, a.String()}
	}
	return nil
}

// proxies are those that the administrator has set for this program.
func proxies() map[string]bool {
	out := map[string]bool{}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		if u, err := url.Parse(os.Getenv(name)); err == nil && u.Host != "" {
			out[withPort(u.Host, u.Scheme)] = true
		}
	}
	return out
}

// careful is a transport that remembers why a registry refuses, and lets no
// credentials travel unencrypted to where that was not asked for.
type careful struct {
	way  *way
	base http.RoundTripper
}

func (c *careful) RoundTrip(req *http.Request) (*http.Response, error) {
	secret := req.Header.Get("Authorization") != "" || req.Method == http.MethodPost
	if req.URL.Scheme == "http" && secret && !c.way.mayBePlain(withPort(req.URL.Host, "http")) {
		return nil, &Error{Host: c.way.source.host, Reason: "wants credentials sent unencrypted to " + req.URL.Host}
	}
	res, err := c.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if failure := refusal(c.way.source.host, req, res); failure != nil {
		c.way.source.note(failure)
		if failure.final {
			_ = res.Body.Close()
			return nil, failure
		}
	}
	return res, nil
}
