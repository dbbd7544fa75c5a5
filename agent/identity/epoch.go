package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// An Epoch is one life of a cluster. The first one needs no word for it and is
// the zero value; every later one was begun by a person who re-formed a cluster
// that had lost its quorum for good, and is signed by the cluster's CA, which
// only voters can open. So a node believes in a newer epoch whoever tells it,
// and nobody but a voter can make one up.
//
// Nodes of different epochs do not talk to each other: the epoch is a part of
// the name of every protocol that nodes speak, so both ends refuse before
// anything else is read.
type Epoch struct {
	Generation uint64 // how often the cluster has been re-formed
	Lineage    string // of the log; begins with the generation
	Node       string // that re-formed it
	At         time.Time

	signed []byte // skeinv1.SignedEpoch
}

// epochPurpose keeps a signature from being taken for one of something else.
const epochPurpose = "skein epoch\n"

// BeginEpoch makes and signs the epoch that follows old.
func BeginEpoch(ca *Authority, old Epoch, node string, at time.Time) (Epoch, error) {
	e := Epoch{Generation: old.Generation + 1, Node: node, At: at.Truncate(time.Second)}
	e.Lineage = strconv.FormatUint(e.Generation, 10) + "." + rand.Text()
	body, err := proto.Marshal(&skeinv1.Epoch{
		ClusterId: ca.ClusterID(), Generation: e.Generation, Lineage: e.Lineage, Node: node, TimeUnix: e.At.Unix(),
	})
	if err != nil {
		return e, fmt.Errorf("encode the epoch: %w", err)
	}
	sum := sha256.Sum256(append([]byte(epochPurpose), body...))
	signature, err := ca.key.Sign(rand.Reader, sum[:], nil)
	if err != nil {
		return e, fmt.Errorf("sign the epoch: %w", err)
	}
	e.signed, err = proto.Marshal(&skeinv1.SignedEpoch{Epoch: body, Signature: signature})
	return e, err
}

// Newer tells whether e follows other. Of two that were begun side by side
// neither does: a person has to begin a third.
func (e Epoch) Newer(other Epoch) bool { return e.Generation > other.Generation }

// Proto is the epoch as nodes tell it to each other, nil for the first one.
func (e Epoch) Proto() *skeinv1.SignedEpoch {
	if e.Generation == 0 {
		return nil
	}
	var out skeinv1.SignedEpoch
	if err := proto.Unmarshal(e.signed, &out); err != nil {
		return nil // it was read before
	}
	return &out
}

// suffix is what the epoch adds to the name of a protocol between nodes.
func (e Epoch) suffix() string {
	if e.Generation == 0 {
		return ""
	}
	return "@" + e.Lineage
}

// maxLineage bounds the name of an epoch, which is part of an ALPN name.
const maxLineage = 64

// CheckEpoch reads an epoch that somebody told, and believes the CA's word alone.
func (id *Identity) CheckEpoch(signed *skeinv1.SignedEpoch) (Epoch, error) {
	if signed == nil {
		return Epoch{}, nil
	}
	pub, ok := id.ca.PublicKey.(*ecdsa.PublicKey)
	sum := sha256.Sum256(append([]byte(epochPurpose), signed.GetEpoch()...))
	if !ok || !ecdsa.VerifyASN1(pub, sum[:], signed.GetSignature()) {
		return Epoch{}, errors.New("an epoch that this cluster's CA has not signed")
	}
	var body skeinv1.Epoch
	if err := proto.Unmarshal(signed.GetEpoch(), &body); err != nil {
		return Epoch{}, fmt.Errorf("decode the epoch: %w", err)
	}
	if body.GetClusterId() != id.ClusterID() || body.GetGeneration() == 0 || body.GetLineage() == "" || len(body.GetLineage()) > maxLineage {
		return Epoch{}, errors.New("an epoch of another cluster, or of none")
	}
	e := Epoch{Generation: body.GetGeneration(), Lineage: body.GetLineage(), Node: body.GetNode(), At: time.Unix(body.GetTimeUnix(), 0)}
	var err error
	e.signed, err = proto.Marshal(signed)
	return e, err
}

// LoadEpoch reads what SaveEpoch wrote; no file is the first epoch.
func (id *Identity) LoadEpoch(path string) (Epoch, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Epoch{}, nil
	}
	if err != nil {
		return Epoch{}, fmt.Errorf("read the cluster's epoch: %w", err)
	}
	var signed skeinv1.SignedEpoch
	if err := proto.Unmarshal(data, &signed); err != nil {
		return Epoch{}, fmt.Errorf("%s: %w", path, err)
	}
	e, err := id.CheckEpoch(&signed)
	if err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// SaveEpoch keeps an epoch in a file, whole or not at all. The first one has none.
func SaveEpoch(path string, e Epoch) error {
	if e.Generation == 0 {
		return nil
	}
	return writeAside(filepath.Dir(path), filepath.Base(path), bytes.Clone(e.signed))
}

// SetEpoch makes this node speak to the nodes of an epoch alone. Call it before
// the port opens.
func (id *Identity) SetEpoch(e Epoch) { id.epoch.Store(&e) }

// Epoch is the one that this node obeys.
func (id *Identity) Epoch() Epoch {
	if e := id.epoch.Load(); e != nil {
		return *e
	}
	return Epoch{}
}

// Word is what another node says of the cluster.
type Word struct {
	Epoch   Epoch  // that it obeys, good by the CA's signature
	Removed bool   // it leads, and the cluster has no node of this name and key
	Leader  string // address of who leads, if it knows of another

	By  string // the node that says so, as its certificate has it
	Key crypto.PublicKey
}

// AskEpoch asks the node at addr which epoch it obeys, and whether this node is
// in its cluster still. Any node of this cluster may be asked, whatever its epoch.
// Who answers has shown a certificate of the CA; whether it is still a node of
// the cluster is for the caller to check before it believes more than the epoch.
func (id *Identity) AskEpoch(ctx context.Context, addr string, base DialFunc) (Word, error) {
	j := joining{addr: addr, key: id.key, name: id.name, own: id.cert.Load(), ca: caSum(id.ca.Raw), now: id.now}
	conn, err := dialTLS(ctx, base, addr, j.config())
	if err != nil {
		return Word{}, fmt.Errorf("ask %s for its epoch: %w", addr, err)
	}
	wrapped := newConn(conn, ProtoJoin, nil)
	defer wrapped.cut() // the answer is read whole, or not wanted
	transport := overOne(wrapped)
	defer transport.CloseIdleConnections()
	client := skeinv1connect.NewJoinServiceClient(connect.NewClient(connecthttp.NewTransport(
		httpOver(transport), "http://"+ServerName, connecthttp.WithReadMaxBytes(16<<10))))
	res, err := client.Epoch(ctx, &skeinv1.EpochRequest{Node: id.name})
	if err != nil {
		return Word{}, fmt.Errorf("ask %s for its epoch: %w", addr, err)
	}
	word := Word{Removed: res.GetRemoved(), Leader: res.GetLeader(), Key: wrapped.PeerKey()}
	word.By = conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	word.Epoch, err = id.CheckEpoch(res.GetEpoch())
	return word, err
}
