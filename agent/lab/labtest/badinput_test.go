//go:build lab

package labtest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oneLine says whether what a command has said is one line of its own, with a
// hint below it at most.
func oneLine(program, text string) bool {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.HasPrefix(lines[0], program+": ") && (len(lines) == 1 || len(lines) == 2 && strings.HasPrefix(lines[1], "hint: "))
}

func TestManifestsThatMeanNoGoodAreRefusedInOneLine(t *testing.T) {
	l := raise(t, 1)
	good := onePod("good", "Always", "sleep")
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	for what, try := range map[string]struct{ manifest, words string }{
		"an unknown field": {strings.Replace(good, "image:", "imago:", 1), "imago"},
		"a duplicate key":  {strings.Replace(good, "  restartPolicy:", "  restartPolicy: Never\n  restartPolicy:", 1), "restartPolicy"},
		"an alias bomb":    {good + bomb, "values"},
		"10 MB":            {good + strings.Repeat("# nothing\n", 1<<20), "larger than 4 MB"},
		"3 MB of brackets": {"a: " + strings.Repeat("[", 3<<20), "larger than 2 MB"},
		"a way up":         {strings.Replace(good, "name: good", "name: ../good", 1), "../good"},
		"no text":          {"\xff\xfe\x00", "UTF-8"},
		"an absurd number": {strings.Replace(good, "terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 99999999999999999999", 1), "terminationGracePeriodSeconds"},
	} {
		got := l.tryApply(try.manifest)
		t.Logf("%s: %.300s", what, strings.TrimSpace(got.err))
		if got.code != 2 || !strings.Contains(got.err, try.words) || !oneLine("skein", got.err) || got.out != "" {
			t.Errorf("%s: exit code %d, want 2 and one line with %q\n%.2000s%.2000s", what, got.code, try.words, got.out, got.err)
		}
	}
	if n := len(l.pods("")); n != 0 {
		t.Errorf("there are %d Pods, want none", n)
	}
	l.apply(good)
}

func TestArchivesThatMeanNoGoodAreRefusedInOneLine(t *testing.T) {
	l := raise(t, 1)
	before := l.skein("image", "ls")
	archive := func(list ...*tar.Header) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range list {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(w, zeroes{}, h.Size); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	packed := func(data []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	blob := "blobs/sha256/" + strings.Repeat("0", 64)
	whole := archive(&tar.Header{Name: blob, Size: 1 << 20, Mode: 0o600})
	for what, data := range map[string][]byte{
		"cut short":            whole[:len(whole)/2],
		"of a wrong digest":    whole,
		"no archive":           []byte(strings.Repeat("no tar ", 1000)),
		"a bomb":               packed(archive(&tar.Header{Name: blob, Size: 96 << 20, Mode: 0o600})),
		"with ways up":         archive(&tar.Header{Name: "../../../../etc/canary", Size: 3, Mode: 0o600}, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"of nothing but pipes": archive(&tar.Header{Name: "p", Typeflag: tar.TypeFifo}, &tar.Header{Name: "d", Typeflag: tar.TypeBlock, Devmajor: 8}),
	} {
		path := filepath.Join(t.TempDir(), "image.tar")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := l.try("image", "import", path)
		t.Logf("%s: %.300s", what, strings.TrimSpace(got.err))
		if got.code != 1 || !oneLine("skein", got.err) {
			t.Errorf("%s: exit code %d, want 1 and one line\n%s%s", what, got.code, got.out, got.err)
		}
	}
	if after := l.skein("image", "ls"); strings.Count(after, "\n") != strings.Count(before, "\n") {
		t.Errorf("the images have changed:\n%s\nfrom\n%s", after, before)
	}
	if _, err := os.Stat("/etc/canary"); err == nil {
		t.Error("an archive has written outside the store")
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestACommandThatIsNotInTheImageIsToldOnThePod(t *testing.T) {
	l := raise(t, 1)
	l.apply(strings.Replace(onePod("lost", "Always"), "args: []", "command: [/no/such]", 1), "--no-wait")
	l.await(15*time.Second, "the reason on the Pod", func() string {
		for _, c := range l.pod("lost").Status.ContainerStatuses {
			for _, text := range []string{reasonOf(c.State.Waiting != nil, func() string { return c.State.Waiting.Message }), reasonOf(c.LastTerminationState.Terminated != nil, func() string { return c.LastTerminationState.Terminated.Message })} {
				if strings.Contains(text, "/no/such") {
					return ""
				}
			}
		}
		return "no status names the program"
	})
	contains(l, "describe", l.skein("describe", "pod", "lost"), "/no/such")
}

func reasonOf(there bool, text func() string) string {
	if !there {
		return ""
	}
	return text()
}

// offer makes a TLS handshake as somebody without a certificate and tells what
// became of it.
func (l *lab) offer(protocols ...string) (heard string, err error) {
	l.Helper()
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", fmt.Sprintf("127.0.0.1:%d", l.port),
		&tls.Config{InsecureSkipVerify: true, NextProtos: protocols, MinVersion: tls.VersionTLS13}) //nolint:gosec // a stranger asks for nothing
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); err != nil {
		return "", err
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	return string(b[:n]), err
}

func TestAStrangerOnThePortGetsNothing(t *testing.T) {
	l := raise(t, 1)
	for _, protocols := range [][]string{
		{"skein-raft"}, {"skein-gossip"}, {"skein-node"}, {"skein-node", "h2"}, {"h2", "skein-raft"}, {"skein-join", "skein-node"}, {"skein-none"}, {"spdy/3"},
	} {
		if heard, err := l.offer(protocols...); err == nil || heard != "" {
			t.Errorf("who offers %v without a certificate hears %q", protocols, heard)
		}
	}
	plain, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", l.port), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	_ = plain.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(plain, "GET / HTTP/1.1\r\nHost: skein\r\n\r\n")
	said, _ := io.ReadAll(plain)
	contains(l, "the answer to plain HTTP", string(said), "400", "https://")
	udp, err := net.Dial("udp", "10.213.0.1:7373")
	if err == nil { // where the lab's network can be reached from here
		for i := range 1000 {
			_, _ = udp.Write(bytes.Repeat([]byte{byte(i)}, i))
		}
		_ = udp.Close()
	}
	l.skein("get", "nodes")
	for name, n := range l.nodes() {
		if readiness(n) != "True AgentReady" {
			t.Errorf("node %s is %s", name, readiness(n))
		}
	}
}

// secrets are what must be found nowhere: each is one that this cluster made.
func TestSecretsAreFoundNowhere(t *testing.T) {
	l := raise(t, 1)
	canaries := map[string]string{}
	for _, flags := range [][]string{nil, {"--role", "view"}, {"--role", "admin"}} {
		canaries[strings.Join(append([]string{"token"}, flags...), " ")] = l.token(flags...).Token
	}
	for _, file := range []string{"node.key", "sealing.key"} {
		text, err := os.ReadFile(filepath.Join(l.dir, "n1", "data", "identity", file))
		if err != nil {
			t.Fatal(err)
		}
		canaries[file] = strings.TrimSpace(string(text))
	}
	l.join(canaries["token"] + "x") // one that is nearly right, and is told about
	l.apply(onePod("web", "Always", "sleep"))
	said := l.agentLog("n1")
	for _, args := range [][]string{
		{"events", "-A"},
		{"describe", "node", "n1"},
		{"describe", "pod", "web"},
		{"get", "nodes", "-o", "yaml"},
		{"get", "pods", "-A", "-o", "json"},
		{"token", "ls"},
		{"token", "ls", "-o", "json"},
		{"status"},
		{"status", "-o", "json"},
	} {
		said += l.skein(args...)
	}
	for what, canary := range canaries {
		if len(canary) < 16 {
			t.Fatalf("%s is %q, which could be anywhere", what, canary)
		}
		if strings.Contains(said, canary) {
			t.Errorf("%s is told in clear", what)
		}
	}
	err := filepath.WalkDir(l.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.Contains(path, "/identity/") {
			return nil //nolint:nilerr // what is gone meanwhile says nothing
		}
		data, err := os.ReadFile(path)
		for what, canary := range canaries {
			if err == nil && bytes.Contains(data, []byte(canary)) {
				t.Errorf("%s is in %s in clear", what, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhatAnAgentKeepsIsRootsAlone(t *testing.T) {
	l := raise(t, 1)
	for _, path := range []string{"", "data", "data/identity", "data/raft", "data/keeper", "data/containers", "data/images", "data/identity/node.key", "data/identity/sealing.key", "skein.sock", "agent.log"} {
		info, err := os.Stat(filepath.Join(l.dir, "n1", path))
		if err != nil {
			t.Error(err)
			continue
		}
		if path != "data/images" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}
