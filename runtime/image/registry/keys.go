package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// Keys are credentials for registries, in docker's notation. They print as
// nothing, and have no JSON.
type Keys struct {
	entries []entry           // the most exact first
	helpers map[string]string // by host: the name of a helper program
	store   string            // the helper for all others
}

// An entry is one credential.
type entry struct {
	host, path   string // "registry.example:5000", "team/web"; the host may hold *
	user, secret func() string
}

// String tells nothing: what holds secrets does not print.
func (Keys) String() string { return "credentials" }

// GoString tells nothing either.
func (Keys) GoString() string { return "registry.Keys{}" }

// MarshalJSON refuses.
func (Keys) MarshalJSON() ([]byte, error) { return nil, errors.New("credentials have no JSON") }

// maxKeys bounds a file or Secret of credentials, in bytes.
const maxKeys = 1 << 20

// auth is one credential as docker writes it down.
type auth struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// ParseKeys reads what docker's config.json, or a Secret of the type
// kubernetes.io/dockerconfigjson, holds. A document without "auths" is read as
// the older kubernetes.io/dockercfg. Errors do not repeat what it holds.
func ParseKeys(data []byte) (Keys, error) {
	var k Keys
	if len(data) > maxKeys {
		return k, fmt.Errorf("credentials of more than %d bytes", maxKeys)
	}
	var doc struct {
		Auths       map[string]auth   `json:"auths"`
		CredHelpers map[string]string `json:"credHelpers"`
		CredsStore  string            `json:"credsStore"`
	}
	var shape map[string]json.RawMessage
	if json.Unmarshal(data, &shape) != nil || json.Unmarshal(data, &doc) != nil {
		return k, errors.New("credentials are not JSON as docker writes it")
	}
	if shape["auths"] == nil && shape["credHelpers"] == nil && shape["credsStore"] == nil {
		if json.Unmarshal(data, &doc.Auths) != nil {
			doc.Auths = nil // of other settings
		}
	}
	for _, at := range slices.Sorted(maps.Keys(doc.Auths)) {
		e, err := doc.Auths[at].entry()
		if err != nil {
			return k, fmt.Errorf("credentials for %.100q: %w", at, err)
		}
		if e.host, e.path = location(at); e.secret() != "" {
			k.entries = append(k.entries, e)
		}
	}
	slices.SortStableFunc(k.entries, func(a, b entry) int { return len(b.host+b.path) - len(a.host+a.path) })
	k.helpers, k.store = map[string]string{}, doc.CredsStore
	for at, helper := range doc.CredHelpers {
		host, _ := location(at)
		k.helpers[host] = helper
	}
	return k, nil
}

// Plain returns the same credentials without what would have programs of this
// machine run. Those of a person are so used: only the machine's administrator says
// what runs here.
func (k Keys) Plain() Keys { return Keys{entries: k.entries} }

func (a auth) entry() (entry, error) {
	user, secret := a.Username, a.Password
	if user == "" && a.Auth != "" {
		text, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return entry{}, errors.New("auth is not base64")
		}
		var ok bool
		if user, secret, ok = strings.Cut(string(bytes.TrimRight(text, "\x00")), ":"); !ok {
			return entry{}, errors.New("auth is not user:password")
		}
	}
	// containerd takes a secret without a user for a token.
	if a.IdentityToken != "" {
		user, secret = "", a.IdentityToken
	} else if a.RegistryToken != "" {
		user, secret = "", a.RegistryToken
	}
	return entry{user: func() string { return user }, secret: func() string { return secret }}, nil
}

// location splits "https://registry.example:5000/team" in host and path. What
// docker's own hub is called in such files is many things.
func location(at string) (host, where string) {
	if _, rest, ok := strings.Cut(at, "://"); ok {
		at = rest
	}
	host, where, _ = strings.Cut(at, "/")
	host = hub(strings.ToLower(host))
	where = strings.Trim(where, "/")
	if where == "v1" || where == "v2" {
		where = ""
	}
	return host, where
}

func hub(host string) string {
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// matches tells whether an entry is for a repository, as Kubernetes documents it:
// * stands for any text between two dots of the host, and the path is that of the
// repository or one above it.
func (e *entry) matches(host, repository string) bool {
	want, have := strings.Split(e.host, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); !ok || err != nil {
			return false
		}
	}
	return e.path == "" || e.path == repository || strings.HasPrefix(repository, e.path+"/")
}

// find looks for credentials to a repository: those of an earlier document first,
// in one document the most exact.
func find(ctx context.Context, all []Keys, host, repository string) (user, secret string, err error) {
	host = hub(strings.ToLower(host))
	for _, k := range all {
		for i := range k.entries {
			if e := &k.entries[i]; e.matches(host, repository) {
				return e.user(), e.secret(), nil
			}
		}
		helper := k.helpers[host]
		if helper == "" {
			helper = k.store
		}
		if helper == "" {
			continue
		}
		user, secret, err := askHelper(ctx, helper, host)
		if err != nil || secret != "" {
			return user, secret, err
		}
	}
	return "", "", nil
}

const (
	helperWait  = 10 * time.Second
	helperBytes = 64 << 10
)

// askHelper runs docker-credential-NAME, as docker's own documentation of
// credential helpers describes it. Nothing found is no error.
func askHelper(ctx context.Context, name, host string) (user, secret string, err error) {
	if strings.ContainsAny(name, "/\x00") {
		return "", "", fmt.Errorf("%.100q is no name of a credential helper", name)
	}
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	ctx, cancel := context.WithTimeout(ctx, helperWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get") //nolint:gosec // the administrator's own setting
	cmd.Stdin = strings.NewReader(host)
	cmd.WaitDelay = time.Second
	out := &bounded{}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		if strings.Contains(out.String(), "credentials not found") {
			return "", "", nil
		}
		return "", "", fmt.Errorf("credential helper %s: %w", name, err)
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out.Bytes(), &answer) != nil {
		return "", "", fmt.Errorf("credential helper %s: its answer is not JSON", name)
	}
	if answer.Username == "<token>" {
		answer.Username = ""
	}
	return answer.Username, answer.Secret, nil
}

// bounded keeps the first helperBytes.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), helperBytes-b.Len())])
	return len(p), nil
}

// A File is a config.json of docker's, read anew when it has changed.
type File struct {
	path string

	mu   sync.Mutex
	at   time.Time
	size int64
	keys Keys
}

// NewFile returns the file at path. It need not exist.
func NewFile(path string) *File { return &File{path: path} }

func (f *File) load() (Keys, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return Keys{}, nil
	}
	if err != nil {
		return Keys{}, err
	}
	if info.ModTime().Equal(f.at) && info.Size() == f.size {
		return f.keys, nil
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		return Keys{}, err
	}
	keys, err := ParseKeys(data)
	if err != nil {
		return Keys{}, fmt.Errorf("%s: %w", f.path, err)
	}
	f.at, f.size, f.keys = info.ModTime(), info.Size(), keys
	return keys, nil
}
