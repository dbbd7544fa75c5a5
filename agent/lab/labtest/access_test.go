//go:build lab

package labtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// agentLog is what a node's keeper and agent have said.
func (l *lab) agentLog(node string) string {
	l.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, node, "agent.log"))
	if err != nil {
		l.Fatal(err)
	}
	return string(text)
}

type token struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

func (l *lab) token(flags ...string) (made token) {
	l.Helper()
	text := l.skein(append([]string{"token", "create", "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		l.Fatalf("read %s: %v", text, err)
	}
	return made
}

// join tries to join from inside the network of a node, as a machine of its own.
func (l *lab) join(token string) result {
	l.Helper()
	dir := l.TempDir()
	return l.do(l.command("skeind", "lab", "exec", "--name", name, "n1", "--", filepath.Join(bin, "skeind"), "agent",
		"--name", "stranger", "--data-dir", dir, "--socket", filepath.Join(dir, "s"), "--cgroup-parent", "/skein-lab/"+name+"/stranger",
		"--listen", "0.0.0.0:7999", "--advertise", "10.213.0.1:7999", "--join", "10.213.0.1:7373", "--token", token))
}

func TestAMachineWithoutAGoodTokenIsTurnedAwayInOneLine(t *testing.T) {
	l := raise(t, 1)
	other := l.token("--role", "view").Token
	revoked, short := l.token(), l.token("--ttl", "1ms")
	l.skein("token", "revoke", revoked.ID)
	good := l.token().Token
	flip := func(s string, at int) string {
		c := "a"
		if s[at] == 'a' {
			c = "b"
		}
		return s[:at] + c + s[at+1:]
	}
	for what, try := range map[string]struct{ token, words string }{
		"revoked":           {revoked.Token, "token"},
		"expired":           {short.Token, "expired"},
		"a person's":        {other, "token"},
		"with a wrong mark": {flip(good, len("skein1-")+5), "token"},
		"not one at all":    {"hello", "token"},
	} {
		got := l.join(try.token)
		lines := strings.Split(strings.TrimSpace(got.err), "\n")
		told := lines[len(lines)-1]
		if strings.HasPrefix(told, "hint:") && len(lines) > 1 {
			told = lines[len(lines)-2]
		}
		t.Logf("%s: %s", what, told)
		if got.code == 0 || !strings.HasPrefix(told, "skeind: ") || !strings.Contains(told, try.words) || len(lines) > 3 {
			t.Errorf("joining by a token that is %s: exit code %d, want an error in a line that says %q\n%s", what, got.code, try.words, got.err)
		}
	}
	if n := len(l.nodes()); n != 1 {
		t.Errorf("there are %d nodes, want 1", n)
	}
}

func TestAPersonMayDoWhatTheirTokenSays(t *testing.T) {
	l := raise(t, 1)
	view := l.token("--role", "view")
	l.skein("ctx", "add", "viewer", "--server", fmt.Sprintf("https://127.0.0.1:%d", l.port), "--token", view.Token)
	l.skein("ctx", "use", "viewer")
	l.skein("get", "nodes")
	l.refused(6, "", "run", "web", "--image", "skein/demo:v1")
	l.refused(6, "", "token", "create")
	l.skein("ctx", "use", "lab-"+name)
	l.skein("token", "revoke", view.ID)
	l.skein("ctx", "use", "viewer")
	l.refused(6, "", "get", "nodes")
	l.skein("ctx", "use", "lab-"+name)
}

func TestAWrongManifestChangesNothing(t *testing.T) {
	l := raise(t, 1)
	got := l.tryApply(onePod("good", "Always", "sleep") + strings.Replace(onePod("bad", "Always", "sleep"), "restartPolicy:", "restartPolice:", 1))
	if got.code != 2 || !strings.Contains(got.err, "restartPolice") || !strings.Contains(got.err, "restartPolicy") || !strings.Contains(got.err, "stdin:16:") {
		t.Errorf("exit code %d, want 2, the line 16, the field and the nearest one\n%s", got.code, got.err)
	}
	if n := len(l.pods("")); n != 0 {
		t.Errorf("there are %d Pods, want none", n)
	}
}

func TestWhatFitsNowhereIsTold(t *testing.T) {
	l := raise(t, 3)
	got := l.try("run", "huge", "--image", "skein/demo:v1", "--cpu", "1000", "--timeout", "3s")
	if got.code != 3 || !strings.Contains(got.err, "cpu") || !strings.Contains(got.err, "3") {
		t.Errorf("exit code %d, want 3 and which filter refused how many nodes\n%s", got.code, got.err)
	}
	t.Log(strings.TrimSpace(got.err))
	contains(l, "describe", l.skein("describe", "pod", l.only("huge")), "cpu")
	l.skein("node", "cordon", "n1")
	l.skein("scale", "deploy/huge", "--replicas", "0")
}

func TestDeletingWaitsUntilAllIsGone(t *testing.T) {
	l := raise(t, 2)
	runWeb(l, "4")
	begin := time.Now()
	l.skein("delete", "deploy/web")
	t.Logf("four Pods were gone after %.2f s", time.Since(begin).Seconds())
	if n := len(l.pods("app=web")); n != 0 {
		t.Errorf("%d Pods are left", n)
	}
	for _, n := range []string{"n1", "n2"} {
		if got := processes(t, n); len(got) > 0 {
			t.Errorf("on %s %v is left", n, got)
		}
	}
	l.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}")
	l.skein("run", "web", "-n", "team", "--image", "skein/demo:v1", "--replicas", "2", "--timeout", "20s")
	l.skein("delete", "namespace", "team")
	for _, n := range []string{"n1", "n2"} {
		if got := processes(t, n); len(got) > 0 {
			t.Errorf("on %s %v is left of the namespace", n, got)
		}
	}
	if out := l.skein("get", "deployments", "-A"); strings.Contains(out, "web") {
		t.Errorf("the namespace is gone, and this is left:\n%s", out)
	}
	l.refused(1, "team", "get", "namespace", "team")
}
