package identity

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// What lies in the directory. identity.json is written last and makes the rest
// an identity: without it there is at most a key.
const (
	keyFile     = "node.key"
	certFile    = "node.crt"
	caFile      = "ca.crt"
	sealingFile = "sealing.key"
	stateFile   = "identity.json"
)

// formatVersion is what this build writes, and the newest that it reads.
const formatVersion = 1

type stateDoc struct {
	Version    int      `json:"version"`
	Name       string   `json:"name"`
	ClusterID  string   `json:"clusterID"`
	GossipKeys [][]byte `json:"gossipKeys"`
	Peers      []Peer   `json:"peers"`
}

// ErrExists says that a directory holds an identity already.
var ErrExists = errors.New("there is an identity already")

// A PermissionError says that others than its owner may get at a secret.
type PermissionError struct {
	Path string
	Mode fs.FileMode
	UID  uint32 // of the owner
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("%s has mode %04o and owner %d: it holds keys, and must be its owner's alone (chown root, chmod go=)", e.Path, e.Mode.Perm(), e.UID)
}

// A FormatError says that a newer build wrote the directory.
type FormatError struct {
	Path string
	Have int
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s has format %d, this build reads up to %d: upgrade skein", e.Path, e.Have, formatVersion)
}

// EnsureKey returns the node's key of a directory, which it makes where there is
// none. A machine keeps its key before it asks to join, so that a join that was
// cut off can be tried again.
func EnsureKey(dir string, rand io.Reader) (ed25519.PrivateKey, error) {
	if err := ensureDir(dir); err != nil {
		return nil, err
	}
	key, err := loadKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if _, key, err = ed25519.GenerateKey(rand); err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshal the node's key: %w", err)
	}
	return key, writePEM(dir, keyFile, "PRIVATE KEY", der)
}

func ensureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the identity's directory: %w", err)
	}
	// What lies in a folder whose name is lost is lost with it.
	if err := syncDir(filepath.Dir(filepath.Clean(dir))); err != nil {
		return err
	}
	return checkOwn(dir, fs.ModeDir)
}

// checkOwn refuses what others can read, what somebody else owns, and links.
func checkOwn(path string, kind fs.FileMode) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if st.Mode().Type() != kind {
		return fmt.Errorf("%s is a %s: remove it", path, st.Mode().Type())
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner is known", path)
	}
	if st.Mode().Perm()&0o077 != 0 || int(sys.Uid) != os.Geteuid() {
		return &PermissionError{Path: path, Mode: st.Mode(), UID: sys.Uid}
	}
	return nil
}

// Create makes an identity and keeps it in dir, from where Load reads it. It
// fails with ErrExists where there is one.
func Create(dir string, m Material) (*Identity, error) {
	id, err := New(m)
	if err != nil {
		return nil, err
	}
	if err := ensureDir(dir); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(dir, stateFile)); err == nil {
		return nil, fmt.Errorf("%s: %w", dir, ErrExists)
	}
	id.dir = dir
	key, err := x509.MarshalPKCS8PrivateKey(m.Key)
	if err != nil {
		return nil, fmt.Errorf("marshal the node's key: %w", err)
	}
	if err := writePEM(dir, keyFile, "PRIVATE KEY", key); err != nil {
		return nil, err
	}
	if err := writePEM(dir, caFile, "CERTIFICATE", m.CA); err != nil {
		return nil, err
	}
	if err := id.saveCertificate(m.Certificate); err != nil {
		return nil, err
	}
	if len(m.SealingKey) != 0 {
		if err := id.saveSealingKey(m.SealingKey); err != nil {
			return nil, err
		}
	}
	return id, id.saveState()
}

// Load reads the identity of dir. It fails with fs.ErrNotExist where there is
// none, with *PermissionError where others could read it and with *FormatError
// where a newer build wrote it.
func Load(dir string) (*Identity, error) {
	if err := checkOwn(dir, fs.ModeDir); err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	id, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("load identity: %w", err)
	}
	return id, nil
}

func load(dir string) (*Identity, error) {
	text, err := readOwn(dir, stateFile)
	if err != nil {
		return nil, err
	}
	var doc stateDoc
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, stateFile), err)
	}
	if doc.Version > formatVersion {
		return nil, &FormatError{Path: filepath.Join(dir, stateFile), Have: doc.Version}
	}
	m := Material{Name: doc.Name, ClusterID: doc.ClusterID, GossipKeys: doc.GossipKeys, Peers: doc.Peers}
	if m.Key, err = loadKey(dir); err != nil {
		return nil, missing(err)
	}
	if m.Certificate, err = readPEM(dir, certFile, "CERTIFICATE"); err != nil {
		return nil, missing(err)
	}
	if m.CA, err = readPEM(dir, caFile, "CERTIFICATE"); err != nil {
		return nil, missing(err)
	}
	m.SealingKey, err = readPEM(dir, sealingFile, "SKEIN SEALING KEY")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	id, err := New(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	id.dir = dir
	return id, removeHalves(dir)
}

// removeHalves removes what a write that was cut off has left.
func removeHalves(dir string) error {
	halves, err := filepath.Glob(filepath.Join(dir, "*.new-*"))
	if err != nil {
		return err
	}
	for _, path := range halves {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// missing hides that a file does not exist: half an identity is damage, and must
// not be taken for none, over which a new one could be written.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New(err.Error() + ": a part of the identity is lost")
	}
	return err
}

func loadKey(dir string) (ed25519.PrivateKey, error) {
	der, err := readPEM(dir, keyFile, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, keyFile), err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, not an Ed25519 key", filepath.Join(dir, keyFile), key)
	}
	return private, nil
}

func (id *Identity) saveCertificate(der []byte) error {
	return id.save(certFile, "CERTIFICATE", der)
}

func (id *Identity) saveSealingKey(key []byte) error {
	return id.save(sealingFile, "SKEIN SEALING KEY", key)
}

func (id *Identity) save(name, kind string, der []byte) error {
	if id.dir == "" {
		return nil
	}
	return writePEM(id.dir, name, kind, der)
}

func (id *Identity) saveState() error {
	if id.dir == "" {
		return nil
	}
	doc := stateDoc{
		Version: formatVersion, Name: id.name, ClusterID: id.ClusterID(), GossipKeys: id.gossip, Peers: id.peers,
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return fmt.Errorf("marshal the identity: %w", err)
	}
	return writeAside(id.dir, stateFile, append(text, '\n'))
}

func readOwn(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	if err := checkOwn(path, 0); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func readPEM(dir, name, kind string) ([]byte, error) {
	text, err := readOwn(dir, name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s holds no %s", filepath.Join(dir, name), kind)
	}
	return block.Bytes, nil
}

func writePEM(dir, name, kind string, der []byte) error {
	return writeAside(dir, name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// writeAside replaces a file whole, or not at all, also when the power fails.
func writeAside(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, name+".new-*") // 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error is the one to tell
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
