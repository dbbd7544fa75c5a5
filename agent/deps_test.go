package agent

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/skein-dev/skein/"

// A listed is what `go list` tells of a package.
type listed struct {
	ImportPath string
	Name       string
	Doc        string
	Standard   bool
	Deps       []string
	GoFiles    []string
}

func list(t *testing.T, args ...string) []listed {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Doc,Standard,Deps,GoFiles"}, args...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// bans are what a folder must never reach, not even through others. The linter
// checks direct imports; this test follows them.
var bans = []struct{ from, never, because string }{
	{"proto/", module, "it is generated, and everyone shares it"},
	{"consensus", module + "agent", "agreement must not know that gossip or objects exist"},
	{"consensus", module + "runtime", "agreement must not know that kernels exist"},
	{"consensus/state", "net", "it is replayed on every machine"},
	{"runtime/", module + "agent", "a driver that knows what a Service is cannot be tested alone"},
	{"runtime/", module + "consensus", "a driver that knows the log cannot be tested alone"},
	{"runtime/", module + "proto", "a driver that knows the API cannot be tested alone"},
	{"cli", module + "agent", "it must build for darwin and windows"},
	{"cli", module + "consensus", "it must build for darwin and windows"},
	{"cli", module + "runtime", "it must build for darwin and windows"},
	{"cli", "k8s.io/", "it sends what it is given and prints what the server answers"},
	{"runtime/keeper/skeeper", "net", "the keeper knows no network, and stays small"},
	{"runtime/keeper/skeeper", "encoding/json", "the keeper parses nothing, and stays small"},
	{"agent/lease", module + "consensus", "the rule of leases is a pure function"},
	{"agent/place", module + "consensus", "placement is a pure function"},
	{"agent/leader/verdict", module + "consensus", "a verdict is a pure function"},
	{"agent/gossip", module + "consensus", "gossip is advice, and knows nothing of what was agreed"},
}

func TestNoFolderReachesWhatItMustNotKnow(t *testing.T) {
	for _, p := range list(t, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module)
		for _, ban := range bans {
			if rel != ban.from && !strings.HasPrefix(rel, strings.TrimSuffix(ban.from, "/")+"/") {
				continue
			}
			for _, dep := range p.Deps {
				same := strings.HasPrefix(dep, module+strings.TrimSuffix(ban.from, "/"))
				if !same && (dep == ban.never || strings.HasPrefix(dep, strings.TrimSuffix(ban.never, "/")+"/")) {
					t.Errorf("%s reaches %s: %s", rel, dep, ban.because)
				}
			}
		}
	}
}

func TestSiblingsMeetOnlyInTheAgent(t *testing.T) {
	shared := map[string]bool{"object": true, "place": true, "reconcile": true, "lease": true, "identity": true}
	for _, p := range list(t, "./agent/...") {
		rel := strings.TrimPrefix(p.ImportPath, module+"agent/")
		own, _, _ := strings.Cut(rel, "/")
		if rel == p.ImportPath || own == "skeind" || own == "agenttest" {
			continue // the composition root, and what runs it
		}
		for _, dep := range p.Deps {
			sibling, ok := strings.CutPrefix(dep, module+"agent/")
			if !ok {
				continue
			}
			if name, _, _ := strings.Cut(sibling, "/"); name != own && !shared[name] {
				t.Errorf("agent/%s reaches agent/%s: siblings declare what they need, and meet in agent", rel, sibling)
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.GoFiles) == 0 || strings.Contains(p.ImportPath, "/proto/") {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
