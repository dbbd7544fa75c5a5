package cli

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func TestAnAccessLineHoldsAllOrIsRefused(t *testing.T) {
	_, ca, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	text := rapid.StringMatching(`[ -~]{1,30}`)
	rapid.Check(t, func(t *rapid.T) {
		want := &skeinv1.ClientContext{
			Name: rapid.StringMatching(`[a-z]{0,8}`).Draw(t, "name"), Server: "https://" + text.Draw(t, "host"), Token: text.Draw(t, "token"), CaPem: ca,
		}
		word, err := packAccess(want)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsAny(word, " '\"$\\") {
			t.Errorf("a shell would not take %q as one word", word)
		}
		got, err := unpackAccess(" " + word + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		short := word[:rapid.IntRange(0, len(word)-1).Draw(t, "cut at")]
		if got, err := unpackAccess(short); err == nil && cmp.Diff(want, got, protocmp.Transform()) != "" {
			t.Errorf("a part of the line gave %v", got)
		}
	})
}

func FuzzUnpackAccess(f *testing.F) {
	f.Add("skeinctx1-AAAA")
	f.Fuzz(func(t *testing.T, word string) {
		if access, err := unpackAccess(word); err == nil && (access.GetServer() == "" || access.GetCaPem() == "") {
			t.Errorf("unpackAccess(%q) = %v, which reaches nothing", word, access)
		}
	})
}
