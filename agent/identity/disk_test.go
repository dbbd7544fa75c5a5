package identity

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestLoadUndoesCreate(t *testing.T) {
	c := newCluster(t, "c1")
	dir := filepath.Join(t.TempDir(), "deep", "identity")
	m := c.material("n1")
	m.Peers = []Peer{{Name: "n2", Addr: netip.MustParseAddrPort("10.0.0.2:7373")}}
	if _, err := Create(dir, m); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(dir, m); !errors.Is(err, ErrExists) {
		t.Errorf("created over another: got %v, want ErrExists", err)
	}
	check := func(want Material) {
		t.Helper()
		id, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		got := Material{
			Name: id.Name(), ClusterID: id.ClusterID(), Key: id.key, Certificate: id.cert.Load().Certificate[0], CA: id.CA(),
			GossipKeys: id.GossipKeys(), SealingKey: id.SealingKey(), Peers: id.Peers(),
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("identity (-want +got):\n%s", diff)
		}
	}
	check(m)

	id, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Peers = append(m.Peers, Peer{Name: "n3", Addr: netip.MustParseAddrPort("10.0.0.3:7373")})
	m.GossipKeys = [][]byte{[]byte(strings.Repeat("k", 32)), m.GossipKeys[0]}
	m.SealingKey = []byte(strings.Repeat("s", 32))
	if m.Certificate, err = c.ca.Sign(m.Key.Public(), "n1", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(id.SetPeers(m.Peers), id.SetGossipKeys(m.GossipKeys), id.SetSealingKey(m.SealingKey), id.SetCertificate(m.Certificate)); err != nil {
		t.Fatal(err)
	}
	check(m)
}

func TestEnsureKeyKeepsTheKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	a, err := EnsureKey(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := EnsureKey(dir, rand.Reader)
	if err != nil || !a.Equal(b) {
		t.Errorf("a second key was made, or %v", err)
	}
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key alone loads as an identity: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	isPermission := func(err error) bool { var e *PermissionError; return errors.As(err, &e) }
	isDamage := func(err error) bool { return err != nil && !errors.Is(err, fs.ErrNotExist) }
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		want  func(error) bool
	}{
		"a directory that others can enter": {func(d string) error { return os.Chmod(d, 0o710) }, isPermission},
		"a key that others can read":        {func(d string) error { return os.Chmod(filepath.Join(d, keyFile), 0o640) }, isPermission},
		"gossip keys that others can read":  {func(d string) error { return os.Chmod(filepath.Join(d, stateFile), 0o604) }, isPermission},
		"a key of another owner":            {func(d string) error { return os.Chown(filepath.Join(d, keyFile), 1234, 0) }, isPermission},
		"a link in the key's place": {func(d string) error {
			return errors.Join(os.Rename(filepath.Join(d, keyFile), filepath.Join(d, "x")), os.Symlink("x", filepath.Join(d, keyFile)))
		}, isDamage},
		"a lost key":         {func(d string) error { return os.Remove(filepath.Join(d, keyFile)) }, isDamage},
		"a lost certificate": {func(d string) error { return os.Remove(filepath.Join(d, certFile)) }, isDamage},
		"a cut-off state":    {func(d string) error { return os.Truncate(filepath.Join(d, stateFile), 20) }, isDamage},
		"an empty key":       {func(d string) error { return os.Truncate(filepath.Join(d, keyFile), 0) }, isDamage},
		"a newer format": {func(d string) error {
			return os.WriteFile(filepath.Join(d, stateFile), []byte(`{"version": 2}`), 0o600)
		}, func(err error) bool { var e *FormatError; return errors.As(err, &e) && e.Have == 2 }},
		"nothing there": {os.RemoveAll, func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "identity")
			if _, err := Create(dir, newCluster(t, "c1").material("n1")); err != nil {
				t.Fatal(err)
			}
			if err := tt.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); !tt.want(err) {
				t.Errorf("Load: %v", err)
			}
		})
	}
}

func TestLoadRemovesHalfWrittenFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "identity")
	if _, err := Create(dir, newCluster(t, "c1").material("n1")); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, certFile+".new-123")
	if err := os.WriteFile(half, []byte("-----BEG"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

func TestNewRefusesWhatDoesNotFit(t *testing.T) {
	c, other := newCluster(t, "c1"), newCluster(t, "c2")
	for name, spoil := range map[string]func(*Material){
		"another cluster's CA":     func(m *Material) { m.CA = other.ca.Certificate() },
		"another cluster's name":   func(m *Material) { m.ClusterID = "c2" },
		"another's certificate":    func(m *Material) { m.Certificate = c.material("n1").Certificate },
		"another node's name":      func(m *Material) { m.Name = "n2" },
		"a twin cluster's":         func(m *Material) { m.CA = newCluster(t, "c1").ca.Certificate() },
		"a short sealing key":      func(m *Material) { m.SealingKey = []byte("short") },
		"no key":                   func(m *Material) { m.Key = nil },
		"a certificate for the CA": func(m *Material) { m.Certificate = m.CA },
	} {
		m := c.material("n1")
		spoil(&m)
		if _, err := New(m); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
