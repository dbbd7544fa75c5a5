package api

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"connectrpc.com/connect/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Join gives a machine that shows a token its certificate. An agent that does
// not lead asks the leader, by the same exchange.
func (j *joiner) Join(ctx context.Context, req *skeinv1.JoinRequest) (*skeinv1.JoinResponse, error) {
	key, err := x509.ParsePKIXPublicKey(req.GetPublicKey())
	if err != nil {
		return nil, badRequest("public key: %v", err)
	}
	if held := identity.PeerKey(ctx); held == nil || identity.Fingerprint(held) != identity.Fingerprint(key) {
		return nil, denied("whoever joins must hold the key that it names")
	}
	if !j.cfg.Consensus.IsLeader() {
		leader := j.whoLeads(ctx)
		if leader != "" && leader != j.cfg.Name {
			return j.cfg.Peers.Client(leader).Enroll(ctx, req)
		}
		if !j.voter() { // it holds no token to compare with
			return nil, consensus.ErrNotLeader
		}
	}
	return j.enroll(ctx, req)
}

// whoLeads names the leader, "" if nobody is known to lead. An agent that takes
// no part in raft asks one that votes.
func (s *Server) whoLeads(ctx context.Context) string {
	if s.voter() || s.cfg.Consensus.Leader() != "" {
		return s.awaitLeader(ctx)
	}
	voter := s.anyVoter()
	if voter == "" {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	answer, err := s.cfg.Peers.Client(voter).Leader(ctx, &skeinv1.LeaderRequest{})
	if err != nil {
		s.log.Debug("a voter does not tell who leads", "node", voter, "err", err)
	}
	return answer.GetLeader()
}

// Epoch tells a node that nobody speaks to whether the cluster was re-formed
// without it, or has removed it. What it answers is no secret; the epoch is
// signed.
func (j *joiner) Epoch(ctx context.Context, req *skeinv1.EpochRequest) (*skeinv1.EpochResponse, error) {
	out := &skeinv1.EpochResponse{}
	if j.cfg.Cluster.Epoch != nil {
		out.Epoch = j.cfg.Cluster.Epoch()
	}
	switch leader := j.cfg.Consensus.Leader(); leader {
	case "":
	case j.cfg.Name:
		if key := identity.PeerKey(ctx); key != nil && req.GetNode() != "" {
			out.Removed = j.removed(ctx, req.GetNode(), identity.Fingerprint(key))
		}
	default:
		if addr, ok := j.cfg.Peers.Addr(leader); ok {
			out.Leader = addr.String()
		}
	}
	return out, nil
}

// confirmPatience bounds how long a quorum may take to say that this node leads.
const confirmPatience = 2 * time.Second

// removed tells whether the cluster has no node of this name and key. A leader
// that a quorum has left does not know, and who joins has its Node before it has
// a certificate to ask with.
func (j *joiner) removed(ctx context.Context, name, fingerprint string) bool {
	if j.attest(name, fingerprint) == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
	defer cancel()
	return j.cfg.Consensus.Confirm(ctx) == nil && j.attest(name, fingerprint) != nil
}

// Enroll is Join, passed on by the agent that a newcomer has reached.
func (p *peer) Enroll(ctx context.Context, req *skeinv1.JoinRequest) (*skeinv1.JoinResponse, error) {
	return p.enroll(ctx, req)
}

func (s *Server) enroll(ctx context.Context, req *skeinv1.JoinRequest) (*skeinv1.JoinResponse, error) {
	key, err := x509.ParsePKIXPublicKey(req.GetPublicKey())
	if err != nil {
		return nil, badRequest("public key: %v", err)
	}
	if err := object.ValidName(req.GetName()); err != nil {
		return nil, badRequest("node name %q: %v", req.GetName(), err)
	}
	advertise, err := netip.ParseAddrPort(req.GetAdvertise())
	if err != nil {
		return nil, badRequest("address %q: %v", req.GetAdvertise(), err)
	}
	for range conflictTries {
		if req.GetToken() == "" {
			err = s.attest(req.GetName(), identity.Fingerprint(key))
			break
		}
		var token identity.Token
		if token, err = identity.ParseToken(req.GetToken()); err != nil {
			return nil, denied("%v", err)
		}
		err = s.admit(ctx, token, req.GetName(), identity.Fingerprint(key), advertise)
		var conflict *state.ConflictError
		if !errors.As(err, &conflict) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	cert, err := s.Sign(ctx, req.GetName(), req.GetPublicKey())
	if err != nil {
		return nil, err
	}
	s.log.Info("node joined", "node", req.GetName(), "addr", advertise)
	return &skeinv1.JoinResponse{
		Certificate: cert,
		Ca:          s.cfg.Cluster.CA,
		ClusterId:   s.cfg.Cluster.ID,
		GossipKeys:  s.cfg.Cluster.GossipKeys(),
		Peers:       s.peers(),
	}, nil
}

// attest lets a node in that was off for longer than its certificate lasts: the
// enrolled key is proof enough.
func (s *Server) attest(name, fingerprint string) error {
	node, known := s.node(name)
	if !known || node.Annotations[object.AnnotationKey] != fingerprint {
		return denied("no node %q with this key is in the cluster", name)
	}
	return nil
}

func denied(format string, args ...any) error {
	return refuse(connect.CodePermissionDenied, exitDenied, "make a new one on a voter with \"skein token create\"", format, args...)
}

// admit checks the token and enrols the key, in one transaction with the use of
// the token. A machine that asks again with the same key is welcome.
func (s *Server) admit(ctx context.Context, token identity.Token, name, fingerprint string, addr netip.AddrPort) error {
	stored, version, err := s.token(token.ID)
	if err != nil {
		return denied("%v", err)
	}
	if err := checkToken(stored, token, s.cfg.Now()); err != nil {
		return denied("%v", err)
	}
	if stored.Spec.Role != "" {
		return denied("this token is a person's, not one to join with")
	}
	txn := &logv1.Txn{}
	node, known := s.node(name)
	switch {
	case known && node.Annotations[object.AnnotationKey] != fingerprint:
		return refuse(connect.CodeAlreadyExists, exitFailed, "choose another --name, or remove the old machine with \"skein node rm "+name+"\"",
			"a node named %q is in the cluster already, with another key", name)
	case known:
		expect := object.Version(node)
		node.Annotations[object.AnnotationAdvertise] = addr.String()
		op, err := object.Put(node, expect)
		if err != nil {
			return err
		}
		txn.Ops = append(txn.Ops, op)
	default:
		op, err := object.Put(NewNode(name, fingerprint, addr, s.cfg.UID(), s.cfg.Now()), 0)
		if err != nil {
			return err
		}
		txn.Ops = append(txn.Ops, op)
		if stored.Spec.Uses > 0 {
			stored.Spec.Used++
		}
	}
	use, err := useToken(stored, version)
	if err != nil {
		return err
	}
	txn.Ops = append(txn.Ops, use)
	if _, err = s.cfg.Consensus.Commit(ctx, txn); err != nil {
		return fmt.Errorf("enrol node %s: %w", name, err)
	}
	return nil
}

// useToken is the part of the token in the transaction: one that was revoked or
// used up meanwhile admits nobody. A token without a count stays as it is, so
// that many machines may join by it at once.
func useToken(stored *object.Token, version uint64) (*logv1.Op, error) {
	if stored.Spec.Uses == 0 {
		return object.Check(object.KeyOf(stored), version), nil
	}
	return object.Put(stored, version)
}

// NewNode is the object of a machine that has just joined: not ready until its
// agent reports.
func NewNode(name, fingerprint string, addr netip.AddrPort, uid string, now time.Time) *corev1.Node {
	at := metav1.Time{Time: now.Truncate(time.Second)}
	return &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: object.KindNode},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: types.UID(uid), CreationTimestamp: at,
			Labels: map[string]string{corev1.LabelHostname: name},
			Annotations: map[string]string{
				object.AnnotationKey:       fingerprint,
				object.AnnotationAdvertise: addr.String(),
			},
		},
		Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.Addr().String()}},
			Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "Joining",
				Message: "its agent has not reported yet", LastTransitionTime: at,
			}},
		},
	}
}

// peers are the voters, and where to find them.
func (s *Server) peers() []*skeinv1.Peer {
	members, _, err := s.cfg.Consensus.Members()
	if err != nil {
		return nil
	}
	var out []*skeinv1.Peer
	for _, m := range members {
		addr, ok := s.cfg.Peers.Addr(m.Name)
		if m.Name == s.cfg.Name {
			addr, ok = s.cfg.Cluster.Advertise(), true
		}
		if ok && m.Voter {
			out = append(out, &skeinv1.Peer{Name: m.Name, Addr: addr.String()})
		}
	}
	return out
}

// checkToken compares what was shown with what is kept.
func checkToken(stored *object.Token, shown identity.Token, now time.Time) error {
	if !identity.SecretMatches(shown, stored.Spec.Hash) {
		return errUnknownToken
	}
	if exp := stored.Spec.Expires; exp != nil && now.After(exp.Time) {
		return fmt.Errorf("this token has expired at %s", exp.Time.UTC().Format(time.RFC3339))
	}
	if stored.Spec.Uses > 0 && stored.Spec.Used >= stored.Spec.Uses {
		return errors.New("this token has been used as often as it may be")
	}
	return nil
}
