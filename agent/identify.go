package agent

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skein-dev/skein/agent/api"
	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Check refuses a configuration that cannot work, without changing anything.
func Check(cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	if err := checkFormat(cfg); err != nil {
		return err
	}
	_, err := identity.Load(identityDir(cfg))
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	case !cfg.Init && len(cfg.Join) == 0:
		return &UsageError{
			Text: "this machine is in no cluster yet: say whether to make one or to join one",
			Hint: "\"skeind run --init\" on the first machine, \"skeind run --join ADDRESS --token TOKEN\" on every other",
		}
	case len(cfg.Join) > 0 && cfg.Token == "":
		return &UsageError{Text: "joining takes a token", Hint: "make one on the first machine with \"skein token create\""}
	}
	return nil
}

// Joined tells whether this machine is in a cluster already, and so needs to be
// told nothing to resume.
func Joined(cfg Config) bool {
	_, err := identity.Load(identityDir(cfg))
	return err == nil
}

func identityDir(cfg Config) string { return filepath.Join(cfg.DataDir, "identity") }

// identify finds out who this node is: what it was, the first node of a new
// cluster, or a newcomer to another.
func (a *Agent) identify(ctx context.Context) error {
	if err := Check(a.cfg); err != nil {
		return err
	}
	dir := identityDir(a.cfg)
	var err error
	a.id, err = identity.Load(dir)
	switch {
	case err == nil:
		a.cfg.Name = a.id.Name()
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read this node's identity: %w", err)
	case a.cfg.Init:
		err = a.found(dir)
	default:
		err = a.join(ctx, dir)
	}
	if err != nil {
		return err
	}
	a.id.SetClock(a.cfg.World.Now)
	known := map[string]netip.AddrPort{}
	for _, p := range a.id.Peers() {
		known[p.Name] = p.Addr
	}
	a.compass.told("", known)
	a.voting = &voting{agent: a}
	return nil
}

// found makes the first node of a new cluster. Its CA waits, sealed, in a file
// until it is in the log.
func (a *Agent) found(dir string) error {
	now := a.cfg.World.Now()
	key, err := identity.EnsureKey(dir, rand.Reader)
	if err != nil {
		return fmt.Errorf("make this node's key: %w", err)
	}
	ca, err := identity.NewAuthority(uuid.NewString(), now, rand.Reader)
	if err != nil {
		return fmt.Errorf("make the cluster's CA: %w", err)
	}
	cert, err := ca.Sign(key.Public(), a.cfg.Name, now)
	if err != nil {
		return fmt.Errorf("sign this node's certificate: %w", err)
	}
	sealing, gossip := make([]byte, identity.SealingKeySize), make([]byte, 32)
	_, _ = rand.Read(sealing) // never fails
	_, _ = rand.Read(gossip)  // never fails
	private, err := ca.MarshalKey()
	if err != nil {
		return fmt.Errorf("encode the cluster's CA: %w", err)
	}
	sealed, err := identity.Seal(sealing, private, sealAuthority, rand.Reader)
	if err != nil {
		return fmt.Errorf("seal the cluster's CA: %w", err)
	}
	if err := writeFile(a.seedFile(), sealed); err != nil {
		return fmt.Errorf("keep the cluster's CA: %w", err)
	}
	a.id, err = identity.Create(dir, identity.Material{
		Name: a.cfg.Name, ClusterID: ca.ClusterID(), Key: key, Certificate: cert, CA: ca.Certificate(),
		GossipKeys: [][]byte{gossip}, SealingKey: sealing,
	})
	return err
}

// sealAuthority is what the CA's key is sealed for.
const sealAuthority = "authority"

func (a *Agent) seedFile() string { return filepath.Join(a.cfg.DataDir, "authority.sealed") }

// unseeded tells that this node has made a cluster, but has not put its CA into
// the log yet.
func (a *Agent) unseeded() bool {
	_, err := os.Stat(a.seedFile())
	return err == nil
}

// joinPatience bounds how long one machine may take to let this one in.
const joinPatience = 15 * time.Second

// join asks the machines that were named, in turn, to be let in.
func (a *Agent) join(ctx context.Context, dir string) error {
	key, err := identity.EnsureKey(dir, rand.Reader)
	if err != nil {
		return fmt.Errorf("make this node's key: %w", err)
	}
	self := identity.Newcomer{
		Name: a.cfg.Name, Advertise: a.cfg.Advertise.String(), Key: key, Dial: a.cfg.World.Network.Dial, Now: a.cfg.World.Now,
	}
	var errs []error
	for _, addr := range a.cfg.Join {
		ask, cancel := context.WithTimeout(ctx, joinPatience)
		res, err := self.Join(ask, addr, a.cfg.Token)
		cancel()
		if refused := turnedAway(err); refused != nil {
			return refused // as anybody else would say
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		material, err := identity.FromJoin(a.cfg.Name, key, res)
		if err != nil {
			return fmt.Errorf("join by %s: %w", addr, err)
		}
		a.id, err = identity.Create(dir, material)
		return err
	}
	return errors.Join(errs...)
}

// turnedAway is what is wrong with the token, nil where that is not the trouble.
func turnedAway(err error) error {
	var expired *identity.ExpiredError
	if errors.Is(err, identity.ErrTokenMalformed) || errors.Is(err, identity.ErrTokenKind) || errors.As(err, &expired) {
		return fmt.Errorf("join: %w", err)
	}
	var refused *connect.Error
	if errors.As(err, &refused) && refused.Code() == connect.CodePermissionDenied {
		return fmt.Errorf("join: %s", refused.Message())
	}
	return nil
}

// seed puts into the log of a new cluster what every cluster begins with. It is
// a duty of every term, and does nothing once it is done.
func (a *Agent) seed(ctx context.Context, _ uint64) error {
	if !a.unseeded() {
		return nil
	}
	made, err := a.plant(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the term is over; the next one tries again
		}
		return err
	}
	if made {
		a.log.Info("cluster made", "node", a.cfg.Name, "addr", a.cfg.Advertise)
		a.announce(ctx)
	}
	return os.Remove(a.seedFile())
}

// plant writes the first objects, unless they are there.
func (a *Agent) plant(ctx context.Context) (made bool, err error) {
	sealed, err := os.ReadFile(a.seedFile())
	if err != nil {
		return false, fmt.Errorf("read the cluster's CA: %w", err)
	}
	now := metav1.Time{Time: a.cfg.World.Now().Truncate(time.Second)}
	meta := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, UID: types.UID(uuid.NewString()), CreationTimestamp: now}
	}
	self := api.NewNode(a.cfg.Name, identity.Fingerprint(a.id.Public()), a.cfg.Advertise, uuid.NewString(), now.Time)
	ringMeta := meta(object.KeyringName) // nobody with an older build is in a new cluster
	ringMeta.Annotations = map[string]string{formatAnnotation: strconv.FormatUint(uint64(a.cfg.Format), 10)}
	objects := []object.Object{
		&object.Authority{ObjectMeta: meta(object.AuthorityName), Spec: object.AuthoritySpec{Certificate: a.id.CA(), SealedKey: sealed}},
		&object.Keyring{ObjectMeta: ringMeta, Spec: object.KeyringSpec{Keys: []object.SealKey{{Key: a.id.GossipKeys()[0], Created: now}}}},
		&corev1.Namespace{ObjectMeta: meta(object.DefaultNamespace), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}},
		self,
	}
	txn := &logv1.Txn{}
	for _, obj := range objects {
		if _, there := a.raft.Store().Get(object.KeyOf(obj)); there {
			continue
		}
		op, err := object.Put(obj, 0)
		if err != nil {
			return false, err
		}
		txn.Ops = append(txn.Ops, op)
	}
	if len(txn.Ops) == 0 {
		return false, nil
	}
	if _, err := a.raft.Commit(ctx, txn); err != nil {
		return false, fmt.Errorf("write the first objects: %w", err)
	}
	return true, nil
}

// announce tells the operator how other machines join.
func (a *Agent) announce(ctx context.Context) {
	token, err := a.api.Issue(ctx, &skeinv1.CreateTokenRequest{Description: "made with the cluster"})
	if err != nil {
		a.log.Warn("no token was made for others to join with", "err", err)
		return
	}
	a.cfg.Announcement("This machine is the first of a new cluster. On every other machine, run\n\n    " + token.GetJoinCommand() +
		"\n\nThe token is good for 24 hours; \"skein token create\" makes another.")
}

// voting is what this node holds as a voter, and hands to others who shall vote.
type voting struct{ agent *Agent }

// Accept keeps the sealing key that a voter has handed over.
func (v *voting) Accept(key []byte) error { return v.agent.id.SetSealingKey(key) }

// Prepare hands a node the sealing key, before it may vote.
func (v *voting) Prepare(ctx context.Context, name string) error {
	_, err := v.agent.peers.Client(name).Prepare(ctx, &skeinv1.PrepareRequest{SealingKey: v.agent.id.SealingKey()})
	return err
}

// Authority opens the cluster's CA out of the log.
func (v *voting) Authority(context.Context) (*identity.Authority, error) {
	row, ok := v.agent.raft.Store().Get(state.Key{Kind: object.KindAuthority, Name: object.AuthorityName})
	if !ok {
		return nil, errors.New("the log does not hold it yet")
	}
	obj, err := object.Decode[object.Authority](row)
	if err != nil {
		return nil, err
	}
	key, err := identity.Unseal(v.agent.id.SealingKey(), obj.Spec.SealedKey, sealAuthority)
	if err != nil {
		return nil, err
	}
	return identity.ParseAuthority(obj.Spec.Certificate, key, rand.Reader)
}

// renew asks the leader for a new certificate, or makes it if this node leads.
func (a *Agent) renew(ctx context.Context, key crypto.PublicKey) ([]byte, error) {
	if a.cfg.World.Now().After(a.id.Expires()) {
		return nil, a.reattest(ctx)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	leader := a.leader()
	switch leader {
	case "":
		return nil, errNobody
	case a.cfg.Name:
		return a.api.Sign(ctx, leader, der)
	}
	res, err := a.peers.Client(leader).Renew(ctx, &skeinv1.RenewRequest{PublicKey: der})
	if err != nil {
		return nil, err
	}
	return res.GetCertificate(), nil
}
