package api

import (
	"context"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// How long tokens live where nobody says.
const (
	joinTTL   = 24 * time.Hour
	personTTL = 365 * 24 * time.Hour
)

// CreateToken makes a token and shows it, once: the log keeps only its hash.
func (c *cluster) CreateToken(ctx context.Context, req *skeinv1.CreateTokenRequest) (*skeinv1.CreateTokenResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	if req.GetRole() != "" && roleNamed(req.GetRole()) == RoleNone {
		return nil, badRequest("role %q: it is view, edit or admin; without one the token is to join with", req.GetRole())
	}
	if req.GetTtlMs() < 0 || req.GetUses() < 0 {
		return nil, badRequest("a lifetime and a number of uses cannot be negative")
	}
	return c.Issue(ctx, req)
}

// Issue makes a token of the lifetime, role and number of uses that are asked for.
func (s *Server) Issue(ctx context.Context, req *skeinv1.CreateTokenRequest) (*skeinv1.CreateTokenResponse, error) {
	ttl := time.Duration(req.GetTtlMs()) * time.Millisecond
	if ttl == 0 {
		if ttl = joinTTL; req.GetRole() != "" {
			ttl = personTTL
		}
	}
	now := s.cfg.Now()
	token, err := identity.NewToken(req.GetRole() != "", now.Add(ttl), s.cfg.Cluster.CA, s.cfg.Random)
	if err != nil {
		return nil, err
	}
	kept := &object.Token{
		TypeMeta: metav1.TypeMeta{APIVersion: object.Group, Kind: object.KindToken},
		ObjectMeta: metav1.ObjectMeta{
			Name: token.ID, UID: types.UID(s.cfg.UID()), CreationTimestamp: metav1.Time{Time: now.Truncate(time.Second)},
		},
		Spec: object.TokenSpec{
			Hash: token.Hash(), Role: req.GetRole(), Uses: req.GetUses(), Description: req.GetDescription(),
			Expires: &metav1.Time{Time: now.Add(ttl).Truncate(time.Second)},
		},
	}
	op, err := object.Put(kept, 0)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Consensus.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{op}}); err != nil {
		return nil, err
	}
	out := &skeinv1.CreateTokenResponse{
		Id: token.ID, Token: token.String(),
		CaPem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cfg.Cluster.CA})),
	}
	if req.GetRole() == "" {
		out.JoinCommand = fmt.Sprintf("skeind run --join %s --token %s", s.cfg.Cluster.Advertise(), token.String())
	}
	return out, nil
}

// ListTokens shows what is known of the tokens; their secrets are not.
func (c *cluster) ListTokens(ctx context.Context, req *skeinv1.ListTokensRequest) (*skeinv1.GetResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	table := &skeinv1.Table{Columns: []string{"ID", "FOR", "USED", "EXPIRES", "DESCRIPTION", "AGE"}}
	rows := c.cfg.Consensus.Store().List(object.KindToken, "", "")
	for _, row := range rows {
		t, err := object.Decode[object.Token](row)
		if err != nil {
			return nil, err
		}
		table.Rows = append(table.Rows, &skeinv1.TableRow{Key: t.Name, Cells: tokenCells(t, c.cfg.Now())})
	}
	if f := req.GetFormat(); f == skeinv1.Format_FORMAT_UNSPECIFIED || f == skeinv1.Format_FORMAT_WIDE {
		return &skeinv1.GetResponse{Table: table}, nil
	}
	shown, err := withoutHashes(rows)
	if err != nil {
		return nil, err
	}
	doc, err := object.Document(shown, req.GetFormat(), false)
	if err != nil {
		return nil, err
	}
	return &skeinv1.GetResponse{Document: doc}, nil
}

func tokenCells(t *object.Token, now time.Time) []string {
	use, used := "joining", fmt.Sprintf("%d of any number", t.Spec.Used)
	if t.Spec.Uses > 0 {
		used = fmt.Sprintf("%d of %d", t.Spec.Used, t.Spec.Uses)
	}
	if t.Spec.Role != "" {
		use, used = "people ("+t.Spec.Role+")", "-"
	}
	expires := "never"
	if e := t.Spec.Expires; e != nil {
		if expires = "in " + duration.HumanDuration(e.Sub(now)); now.After(e.Time) {
			expires = "expired"
		}
	}
	return []string{t.Name, use, used, expires, t.Spec.Description, t.CreationTimestamp.UTC().Format(time.RFC3339)}
}

// withoutHashes are the same rows, less what could be attacked offline.
func withoutHashes(rows []*state.Row) ([]*state.Row, error) {
	var out []*state.Row
	for _, row := range rows {
		t, err := object.Decode[object.Token](row)
		if err != nil {
			return nil, err
		}
		t.Spec.Hash = ""
		enc, err := object.Encode(t)
		if err != nil {
			return nil, err
		}
		r := *row
		r.Body = slices.Clone(enc.GetBody())
		out = append(out, &r)
	}
	return out, nil
}

// RevokeToken forgets a token at once.
func (c *cluster) RevokeToken(ctx context.Context, req *skeinv1.RevokeTokenRequest) (*skeinv1.RevokeTokenResponse, error) {
	if err := need(ctx, RoleAdmin); err != nil {
		return nil, err
	}
	key := state.Key{Kind: object.KindToken, Name: req.GetId()}
	row, ok := c.cfg.Consensus.Store().Get(key)
	if !ok {
		return nil, refuse(connect.CodeNotFound, exitFailed, "see them with \"skein token ls\"", "token %q not found", req.GetId())
	}
	txn := &logv1.Txn{Ops: []*logv1.Op{object.Delete(key, row.Version)}}
	if _, err := c.cfg.Consensus.Commit(ctx, txn); err != nil {
		return nil, err
	}
	return &skeinv1.RevokeTokenResponse{}, nil
}
