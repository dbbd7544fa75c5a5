package api

import (
	"context"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// leaderWait is how long a call waits for an election to end.
const leaderWait = 2 * time.Second

// maxHops bounds how often a call is passed on while leadership moves.
const maxHops = 3

// routed brings a call to the leader: here, or by passing it on whole. Without
// a leader it goes to whoever has the state, itself if it is a voter, and
// reads are answered with their age.
func (s *Server) routed(local http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/skein.") || s.cfg.Consensus.IsLeader() {
			local.ServeHTTP(w, r)
			return
		}
		leader := s.awaitLeader(r.Context())
		switch {
		case leader == s.cfg.Name || (leader == "" && s.voter()):
			local.ServeHTTP(w, r)
		case leader != "":
			s.passOn(w, r, leader)
		default:
			if voter := s.anyVoter(); voter != "" {
				s.passOn(w, r, voter)
				return
			}
			s.unavailable(w, r, "no voter of the cluster can be reached")
		}
	})
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
		s.passOn(w, r, leader)
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

func (s *Server) passOn(w http.ResponseWriter, r *http.Request, node string) {
	hops, _ := strconv.Atoi(r.Header.Get(headerHops))
	proxy := httputil.ReverseProxy{
		Transport:     s.cfg.Peers.Transport(),
		FlushInterval: -1,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", node, node
			p.Out.Header.Del(headerLocal)
			if caller(r.Context()).Local {
				p.Out.Header.Set(headerLocal, "true")
				p.Out.Header.Del("Authorization")
			}
			p.Out.Header.Set(headerHops, strconv.Itoa(hops+1))
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				s.log.Debug("cannot pass a call on", "node", node, "err", err)
			}
			s.unavailable(w, r, "node "+node+" leads the cluster, but does not answer")
		},
	}
	proxy.ServeHTTP(w, r)
}

func (s *Server) unavailable(w http.ResponseWriter, r *http.Request, text string) {
	out := connect.NewError(connect.CodeUnavailable, text)
	info := &skeinv1.ErrorInfo{ExitCode: exitNoLeader, Hint: "try again in a moment; \"skein status\" shows the machines"}
	if detail, err := connectproto.NewErrorDetail(info); err == nil {
		out = out.WithDetail(detail)
	}
	_ = connecthttp.NewErrorWriter().Write(w, r, out) // the client may be gone
}
