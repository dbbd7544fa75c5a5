package api

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// A Role is what a person may do: each includes those before it.
type Role int

// The roles. View reads all but secrets, edit changes what runs, admin changes
// who may, and which machines there are.
const (
	RoleNone Role = iota
	RoleView
	RoleEdit
	RoleAdmin
)

func roleNamed(name string) Role {
	return map[string]Role{"view": RoleView, "edit": RoleEdit, "admin": RoleAdmin}[name]
}

func (r Role) String() string {
	return [...]string{"none", "view", "edit", "admin"}[r]
}

// A Caller is whoever made a call.
type Caller struct {
	Name     string
	Role     Role
	Local    bool // by the local socket of the node that took the call
	Unjudged bool // this agent's copy cannot tell who it is, another's may
}

type callerKey struct{}

// caller returns who made the call; identified has put it there.
func caller(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// need refuses a caller of a lesser role.
func need(ctx context.Context, role Role) error {
	c := caller(ctx)
	if c.Role >= role {
		return nil
	}
	if c.Unjudged {
		return refuse(connect.CodeUnavailable, exitNoLeader, hintNoLeader, "no leader, and this node cannot tell without one whose token this is; nothing was changed")
	}
	hint := "use a token of role " + role.String() + ": \"skein token create --role " + role.String() + "\" by an administrator makes one"
	if c.Local {
		hint = "this machine has no vote, so its root is no administrator of the cluster: run it on a voter, or use a token (\"skein ctx add\")"
	}
	return refuse(connect.CodePermissionDenied, exitDenied, hint, "%s may not do this: it takes the role %s", c.Name, role)
}

// identified finds out who calls before anything of the call is read.
func (s *Server) identified(who func(*http.Request) (Caller, error), next http.Handler) http.Handler {
	deny := connecthttp.NewErrorWriter()
	bounded := timed(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(code connect.Code, text string, info *skeinv1.ErrorInfo) {
			out := connect.NewError(code, text)
			if detail, err := connectproto.NewErrorDetail(info); err == nil {
				out = out.WithDetail(detail)
			}
			_ = deny.Write(w, r, out) // the client may be gone
		}
		c, err := who(r)
		if err != nil {
			answer(connect.CodeUnauthenticated, err.Error(), &skeinv1.ErrorInfo{ExitCode: exitDenied, Hint: "see your contexts with \"skein ctx ls\"; an administrator makes a token with \"skein token create --role view|edit|admin\""})
			return
		}
		if !s.calls.enter(c.Name) {
			answer(connect.CodeResourceExhausted, fmt.Sprintf("%s has %d calls open on this node already", c.Name, maxCalls),
				&skeinv1.ErrorInfo{ExitCode: exitFailed, Hint: "end a watch, \"logs -f\" or \"exec\" that is forgotten somewhere"})
			return
		}
		defer s.calls.leave(c.Name)
		bounded.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

var errNoToken = errors.New("a bearer token is needed")

// bearer knows people by the token they send.
func (s *Server) bearer(r *http.Request) (Caller, error) {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Caller{}, errNoToken
	}
	return s.holder(text)
}

// holder checks a person's token against the store. An agent without a copy of
// the tokens, or with one that may lack the newest, leaves the judgement to the
// one that it passes the call on to.
func (s *Server) holder(text string) (Caller, error) {
	token, err := identity.ParseToken(text)
	if err != nil {
		return Caller{}, err
	}
	unjudged := Caller{Name: "token " + token.ID, Role: RoleNone, Unjudged: true}
	if !s.voter() {
		return unjudged, nil
	}
	stored, _, err := s.token(token.ID)
	if errors.Is(err, errUnknownToken) && !s.cfg.Consensus.IsLeader() {
		return unjudged, nil
	}
	if err != nil {
		return Caller{}, err
	}
	if err := checkToken(stored, token, s.cfg.Now()); err != nil {
		return Caller{}, err
	}
	role := roleNamed(stored.Spec.Role)
	if role == RoleNone {
		return Caller{}, errors.New("this token is for machines to join with, not for people")
	}
	return Caller{Name: "token " + token.ID, Role: role}, nil
}

var errUnknownToken = errors.New("unknown or revoked token")

// token reads what is kept of a token, and its version.
func (s *Server) token(id string) (*object.Token, uint64, error) {
	row, ok := s.cfg.Consensus.Store().Get(state.Key{Kind: object.KindToken, Name: id})
	if !ok {
		return nil, 0, errUnknownToken
	}
	t, err := object.Decode[object.Token](row)
	return t, row.Version, err
}

// Headers by which one agent tells another for whom it passes a call on.
const (
	headerLocal = "Skein-Local-Root" // the caller came by the local socket
	headerHops  = "Skein-Hops"
)

// passedOn knows whose call another agent passes on. A person's token is judged
// here again. The word of an agent that its own root asks is taken only from a
// voter, which holds all the secrets of the cluster anyway; from another it is
// worth no more than to look.
func (s *Server) passedOn(r *http.Request) (Caller, error) {
	node := identity.PeerName(r.Context())
	if node == "" {
		return Caller{}, errors.New("no certificate")
	}
	if r.Header.Get(headerLocal) == "" {
		return s.bearer(r)
	}
	c := Caller{Name: "root@" + node, Role: RoleView, Local: true}
	if s.votes(node) {
		c.Role = RoleAdmin
	}
	return c, nil
}

func (s *Server) voter() bool { return s.votes(s.cfg.Name) }

func (s *Server) votes(name string) bool {
	members, _, err := s.cfg.Consensus.Members()
	if err != nil {
		return false
	}
	for _, m := range members {
		if m.Name == name {
			return m.Voter
		}
	}
	return false
}

// verify checks the key of a node certificate against the Node object. The
// first node of a cluster, and one that has not caught up, know nobody yet and
// have nothing that a stranger with a valid certificate could take.
func (s *Server) verify(name string, key crypto.PublicKey) error {
	row, ok := s.node(name)
	if !ok {
		return errors.New("no such node in the cluster")
	}
	if row.Annotations[object.AnnotationKey] != identity.Fingerprint(key) {
		return errors.New("the key is not the one that this node has enrolled")
	}
	return nil
}
