package object

import (
	"strings"
	"testing"
)

func TestSeccompProfilesAreCheckedAtTheirPath(t *testing.T) {
	for profile, want := range map[string]string{
		"{type: RuntimeDefault}": "", "{type: Unconfined}": "", "{type: Localhost, localhostProfile: team/web.json}": "",
		"{type: Localhost}":                                "localhostProfile: is missing",
		"{type: Localhost, localhostProfile: \"\"}":        "localhostProfile: is missing",
		"{type: Localhost, localhostProfile: /etc/passwd}": "localhostProfile: \"/etc/passwd\": want a path below",
		"{type: Localhost, localhostProfile: a/../../b}":   "want a path below",
		"{type: Localhost, localhostProfile: \"a\\nb\"}":   "one line",
		"{type: RuntimeDefault, localhostProfile: x.json}": "localhostProfile: belongs to the type Localhost",
		"{type: Other}": "type: \"Other\": want RuntimeDefault, Localhost or Unconfined",
	} {
		for _, where := range []string{
			"spec:\n  securityContext: {seccompProfile: " + profile + "}\n  containers: [{name: c, image: a}]\n",
			"spec:\n  containers: [{name: c, image: a, securityContext: {seccompProfile: " + profile + "}}]\n",
		} {
			_, err := Parse("p.yaml", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n"+where), "")
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q", profile, err, want)
			}
		}
	}
}

// No container is confined by AppArmor, and a Pod that asks for it is not run
// without.
func TestAppArmorIsRefusedUnlessItIsUnconfined(t *testing.T) {
	for profile, want := range map[string]string{
		"{type: Unconfined}":                        "",
		"{type: RuntimeDefault}":                    "appArmorProfile.type: the string \"RuntimeDefault\" is not supported",
		"{type: Localhost, localhostProfile: mine}": "appArmorProfile.type: the string \"Localhost\" is not supported",
	} {
		_, err := Parse("p.yaml", []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, image: a, securityContext: {appArmorProfile: "+profile+"}}]\n"), "")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", profile, err, want)
		}
	}
}
