package registry

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	keys, err := ParseKeys([]byte(`{"auths": {
		"https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
		"registry.example:5000": {"username": "all", "password": "secret"},
		"registry.example:5000/team": {"username": "team", "password": "secret"},
		"*.wild.example": {"username": "wild", "password": "secret"},
		"token.example": {"auth": "eDp5", "identitytoken": "tok"},
		"empty.example": {}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ host, repository, user, secret string }{
		{"registry-1.docker.io", "library/nginx", "hub", "secret"},
		{"docker.io", "library/nginx", "hub", "secret"},
		{"registry.example:5000", "web", "all", "secret"},
		{"registry.example:5000", "team/web", "team", "secret"},
		{"registry.example:5000", "team", "team", "secret"},
		{"registry.example:5000", "teams/web", "all", "secret"},
		{"Registry.Example:5000", "web", "all", "secret"},
		{"registry.example", "web", "", ""},
		{"a.wild.example", "web", "wild", "secret"},
		{"a.b.wild.example", "web", "", ""},
		{"wild.example", "web", "", ""},
		{"token.example", "web", "", "tok"},
		{"empty.example", "web", "", ""},
		{"evil.example", "registry.example:5000/team", "", ""},
	}
	for _, tt := range tests {
		user, secret, err := find(t.Context(), []Keys{keys}, tt.host, tt.repository)
		if user != tt.user || secret != tt.secret || err != nil {
			t.Errorf("%s %s: got %q, %q, %v, want %q, %q", tt.host, tt.repository, user, secret, err, tt.user, tt.secret)
		}
	}
}

func TestEarlierDocumentsComeFirst(t *testing.T) {
	one, _ := ParseKeys([]byte(`{"a.example": {"username": "one", "password": "1"}}`)) // as dockercfg
	two, _ := ParseKeys([]byte(`{"auths": {"a.example": {"username": "two", "password": "2"}, "b.example": {"username": "b", "password": "3"}}}`))
	for host, want := range map[string]string{"a.example": "one", "b.example": "b"} {
		if got, _, _ := find(t.Context(), []Keys{one, two}, host, "x"); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	keys, err := ParseKeys([]byte(`{"auths": {"a.example": {"username": "ann", "password": "canary"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{fmt.Sprintf("%v %+v %#v %s", keys, keys, keys, keys), fmt.Sprintf("%+v %#v", []Keys{keys}, &keys)}
	data, err := json.Marshal(map[string]any{"keys": keys})
	if err == nil {
		t.Error("credentials have JSON")
	}
	for _, text := range append(texts, string(data)) {
		if strings.Contains(text, "canary") {
			t.Errorf("the password is printed: %s", text)
		}
	}
	_, err = ParseKeys([]byte(`{"auths": {"a.example": {"auth": "canary not base64"}}}`))
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v, want an error that does not repeat it", err)
	}
}

// A helper program is asked as docker asks it.
func TestCredentialHelper(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nread host\ncase $host in\nhelped.example) echo '{\"ServerURL\":\"x\",\"Username\":\"h\",\"Secret\":\"s\"}';;\n" +
		"*) echo credentials not found in native keychain; exit 1;;\nesac\n"
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, doc := range []string{`{"credHelpers": {"helped.example": "test"}}`, `{"credsStore": "test"}`} {
		keys, err := ParseKeys([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		if user, secret, err := find(t.Context(), []Keys{keys}, "helped.example", "web"); user != "h" || secret != "s" || err != nil {
			t.Errorf("%s: got %q, %q, %v, want h, s", doc, user, secret, err)
		}
		if user, secret, err := find(t.Context(), []Keys{keys}, "other.example", "web"); user != "" || secret != "" || err != nil {
			t.Errorf("%s: of another registry: got %q, %q, %v, want nothing", doc, user, secret, err)
		}
	}
	keys, _ := ParseKeys([]byte(`{"credsStore": "../evil"}`))
	if _, _, err := find(t.Context(), []Keys{keys}, "helped.example", "web"); err == nil {
		t.Error("a helper with a path was asked")
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(`{"auths": {"a.example": {"auth": "YTpi"}}, "credHelpers": {"x": "y"}}`))
	f.Add([]byte(`{"a.example": {"username": "u", "password": "p"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := ParseKeys(data)
		if err != nil {
			return
		}
		for i := range keys.entries {
			keys.entries[i].matches("a.example", "web")
		}
	})
}

// What a person's Secret says has no program of this machine run.
func TestPlainKeysRunNoHelper(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "ran")
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-evil"), []byte("#!/bin/sh\ntouch "+mark+"\n"), 0o700); err != nil { //nolint:gosec // it is to run
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	keys, err := ParseKeys([]byte(`{"auths": {"a.example": {"auth": "dTpw"}}, "credHelpers": {"b.example": "evil"}, "credsStore": "evil"}`))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"a.example": "p", "b.example": "", "c.example": ""} {
		if _, secret, err := find(t.Context(), []Keys{keys.Plain()}, host, "web"); err != nil || secret != want {
			t.Errorf("%s: secret %q, %v, want %q", host, secret, err, want)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the helper that a Secret names has run")
	}
	if _, _, _ = find(t.Context(), []Keys{keys}, "b.example", "web"); os.Remove(mark) != nil {
		t.Error("this test would not notice a helper that runs")
	}
}
