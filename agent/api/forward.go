package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// leaderWait is how long a call waits for an election to end.
const leaderWait = 2 * time.Second

// maxHops bounds how often a call is passed on while leadership moves.
const maxHops = 3

// routed brings a call to the leader: here, or by passing it on whole. Without
// a leader it goes to whoever has the state, itself if it is a voter, and
// reads are answered with their age.
func (s *Server) routed(local http.Handler) http.Handler {
	var routed http.Handler
	own := s.fromCopy()
	routed = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/skein.") || s.cfg.Consensus.IsLeader() {
			local.ServeHTTP(w, r)
			return
		}
		leader := s.cfg.Consensus.Leader()
		if leader == "" && s.voter() { // only they take part in an election, and hear of its end
			leader = s.awaitLeader(r.Context())
		}
		switch {
		case leader == s.cfg.Name || (leader == "" && s.voter()):
			local.ServeHTTP(w, r)
		case leader != "":
			s.passOn(w, r, leader, routed, own)
		default:
			if voter := s.anyVoter(); voter != "" {
				s.passOn(w, r, voter, routed, own)
				return
			}
			if own != nil && reads[r.URL.Path] {
				own.ServeHTTP(w, r)
				return
			}
			s.unavailable(w, r, "no voter of the cluster can be reached")
		}
	})
	return routed
}

// arrived serves a call that another agent has passed on, and passes it on
// again when leadership has moved meanwhile.
func (s *Server) arrived(local http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hops, _ := strconv.Atoi(r.Header.Get(headerHops))
		if s.cfg.Consensus.IsLeader() || !s.voter() {
			local.ServeHTTP(w, r)
			return
		}
		leader := s.awaitLeader(r.Context())
		if leader == "" || leader == s.cfg.Name || hops >= maxHops || r.Header.Get(headerLocal) != "" {
			local.ServeHTTP(w, r)
			return
		}
		s.passOn(w, r, leader, local, nil)
	})
}

// awaitLeader returns who leads, waiting a while for an election to end.
func (s *Server) awaitLeader(ctx context.Context) string {
	timer := time.NewTimer(leaderWait)
	defer timer.Stop()
	for {
		changed := s.cfg.Consensus.LeaderChanged()
		if leader := s.cfg.Consensus.Leader(); leader != "" {
			return leader
		}
		select {
		case <-changed:
		case <-timer.C:
			return ""
		case <-ctx.Done():
			return ""
		}
	}
}

func (s *Server) anyVoter() string {
	health := s.cfg.Peers.Health()
	for name, h := range health {
		if h.State == "alive" && name != s.cfg.Name && h.Voter {
			return name
		}
	}
	return ""
}

// reads are the calls that change nothing, and so may be asked again of another.
var reads = map[string]bool{
	skeinv1connect.ClusterServiceGetProcedure:        true,
	skeinv1connect.ClusterServiceDescribeProcedure:   true,
	skeinv1connect.ClusterServiceStatusProcedure:     true,
	skeinv1connect.ClusterServiceVersionProcedure:    true,
	skeinv1connect.ClusterServiceListTokensProcedure: true,
}

// maxRead bounds the request of a read, in bytes.
const maxRead = 64 << 10

// passOn hands a call to another agent, for as long as leadership stays where it
// is: who is cut off with a dead leader must not wait for its connection to time
// out. A read is then asked again of whoever leads next, and where nobody
// answers, of own, this agent's copy, if it has one and no vote.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, node string, again, own http.Handler) {
	hops, _ := strconv.Atoi(r.Header.Get(headerHops))
	var body []byte
	if reads[r.URL.Path] {
		var err error
		if body, err = io.ReadAll(io.LimitReader(r.Body, maxRead)); err != nil {
			return // the client is gone
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	ctx, cancel := s.whileLed(r.Context())
	defer cancel()
	proxy := httputil.ReverseProxy{
		Transport:     s.cfg.Peers.Transport(),
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) { //nolint:contextcheck // who calls is in the context it came with
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", node, node
			p.Out.Header.Del(headerLocal)
			if caller(r.Context()).Local {
				p.Out.Header.Set(headerLocal, "true")
				p.Out.Header.Del("Authorization")
			}
			p.Out.Header.Set(headerHops, strconv.Itoa(hops+1))
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if r.Context().Err() != nil {
				return
			}
			s.log.Debug("cannot pass a call on", "node", node, "err", err)
			if body != nil && hops < maxHops && ctx.Err() != nil {
				next := r.Clone(r.Context()) //nolint:contextcheck // ctx has ended, the person still waits
				next.Body = io.NopCloser(bytes.NewReader(body))
				next.Header.Set(headerHops, strconv.Itoa(hops+1))
				again.ServeHTTP(w, next)
				return
			}
			if body != nil && own != nil && !s.voter() {
				next := r.Clone(r.Context()) //nolint:contextcheck // ctx has ended, the person still waits
				next.Body = io.NopCloser(bytes.NewReader(body))
				own.ServeHTTP(w, next)
				return
			}
			s.unavailable(w, r, "node "+node+" led the cluster and does not answer; what was asked for may have been done or not")
		},
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, text string) {
	out := connect.NewError(connect.CodeUnavailable, text)
	info := &skeinv1.ErrorInfo{ExitCode: exitNoLeader, Hint: "try again in a moment; \"skein status\" shows the machines"}
	if detail, err := connectproto.NewErrorDetail(info); err == nil {
		out = out.WithDetail(detail)
	}
	_ = connecthttp.NewErrorWriter().Write(w, r, out) // the client may be gone
}
