package identity

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newToken(t *testing.T, person bool, expires time.Time, ca []byte) Token {
	t.Helper()
	token, err := NewToken(person, expires, ca, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestParseTokenUndoesString(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, err := NewToken(rapid.Bool().Draw(t, "person"), time.Unix(rapid.Int64Range(0, 1<<40-1).Draw(t, "expires"), 0),
			rapid.SliceOf(rapid.Byte()).Draw(t, "ca"), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text := want.String()
		for _, form := range []string{text, " " + text + "\n", strings.ToUpper(text)} {
			got, err := ParseToken(form)
			if err != nil || got != want {
				t.Fatalf("ParseToken(%q) = %+v, %v, want %+v", form, got, err, want)
			}
		}
		if !SecretMatches(want, want.Hash()) {
			t.Error("the token does not match its own hash")
		}
	})
}

func TestTokenHasItsPrefix(t *testing.T) {
	if got := newToken(t, false, time.Now(), nil).String(); !strings.HasPrefix(got, "skein1-") {
		t.Errorf("a token to join with is %q", got)
	}
	if got := newToken(t, true, time.Now(), nil).String(); !strings.HasPrefix(got, "skeinp1-") {
		t.Errorf("a person's token is %q", got)
	}
}

func TestParseTokenRefuses(t *testing.T) {
	good := newToken(t, false, time.Now(), []byte("ca")).String()
	swap := []byte(good)
	swap[20]++
	if swap[20] > 'z' {
		swap[20] = 'a'
	}
	for name, text := range map[string]string{
		"nothing":            "",
		"a prefix alone":     "skein1-",
		"another word":       "hello",
		"a part":             good[:len(good)-1],
		"more":               good + "a",
		"a slip of the hand": string(swap),
		"another kind":       strings.Replace(good, "skein1-", "skeinp1-", 1),
		"a foreign letter":   good[:30] + "!" + good[31:],
		"a line break in it": good[:30] + "\n" + good[30:],
		"a megabyte":         "skein1-" + strings.Repeat("a", 1<<20),
	} {
		if _, err := ParseToken(text); !errors.Is(err, ErrTokenMalformed) {
			t.Errorf("%s: got %v, want ErrTokenMalformed", name, err)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	token := newToken(t, false, at, nil)
	if err := token.Usable(at); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	var expired *ExpiredError
	if err := token.Usable(at.Add(time.Second)); !errors.As(err, &expired) || !expired.At.Equal(at) {
		t.Errorf("a second later: got %v, want *ExpiredError at %v", err, at)
	}
	if _, err := NewToken(false, time.Unix(-1, 0), nil, rand.Reader); err == nil {
		t.Error("a token that expires before 1970 was made")
	}
}

func TestSecretMatchesOnlyItsOwn(t *testing.T) {
	a, b := newToken(t, false, time.Now(), nil), newToken(t, false, time.Now(), nil)
	if a.ID == b.ID || a.Hash() == b.Hash() {
		t.Error("two tokens are alike")
	}
	for name, hash := range map[string]string{"another's": b.Hash(), "none": "", "half": a.Hash()[:32]} {
		if SecretMatches(a, hash) {
			t.Errorf("%s hash matches", name)
		}
	}
}

func TestTokenStaysOutOfLogsAndDocuments(t *testing.T) {
	token := newToken(t, true, time.Now(), nil)
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("made", "token", token)
	if strings.Contains(out.String(), token.String()) || !strings.Contains(out.String(), token.ID) {
		t.Errorf("the log says %q", out.String())
	}
	if _, err := json.Marshal(token); err == nil {
		t.Error("a token was marshalled")
	}
}

func FuzzParseToken(f *testing.F) {
	token, err := NewToken(false, time.Unix(1e9, 0), []byte("ca"), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.String())
	f.Add("skein1-")
	f.Add("skeinp1-" + strings.Repeat("7", 96))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		if again := token.String(); again != strings.ToLower(strings.TrimSpace(text)) {
			t.Errorf("%q was read as %q", text, again)
		}
	})
}
