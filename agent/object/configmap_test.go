package object

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skein-dev/skein/consensus/state"
)

const canary = "hunter2-canary-7c1f"

// A turner stands for a sealing key: it turns every byte over, behind as many
// others as sealing adds.
type turner struct{ other bool }

func (s turner) Seal(secret []byte, purpose string) ([]byte, error) {
	out := make([]byte, sealOverhead, sealOverhead+len(secret))
	copy(out, purpose[max(0, len(purpose)-sealOverhead):])
	for _, b := range secret {
		out = append(out, ^b)
	}
	return out, nil
}

var errTurner = errors.New("sealed with another key")

func (s turner) Unseal(sealed []byte, purpose string) ([]byte, error) {
	if want, _ := s.Seal(nil, purpose); s.other || !slices.Equal(want, sealed[:sealOverhead]) {
		return nil, errTurner
	}
	var out []byte
	for _, b := range sealed[sealOverhead:] {
		out = append(out, ^b)
	}
	return out, nil
}

func configMapRow(t *testing.T) *state.Row {
	t.Helper()
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "app", Namespace: "default", UID: "u", CreationTimestamp: before(time.Hour)}}
	c.Data = map[string]string{"app.conf": "level = debug\n\x1b[31mred\n", "mode": "fast"}
	c.BinaryData = map[string][]byte{"logo": {1, 2, 3}}
	return rowOf(t, c, 1)
}

func secretRow(t *testing.T) *state.Row {
	t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "u", CreationTimestamp: before(time.Hour)}}
	s.Type, s.Data = corev1.SecretTypeBasicAuth, map[string][]byte{"password": []byte(canary), "username": []byte("app")}
	sealed, err := SealSecret(s, nil, turner{})
	if err != nil {
		t.Fatal(err)
	}
	return rowOf(t, sealed, 1)
}

func TestASecretGoesIntoTheLogSealedOrNotAtAll(t *testing.T) {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "u"}, Data: map[string][]byte{"a": []byte(canary)}}
	for name, change := range map[string]func(*corev1.Secret){
		"data": func(*corev1.Secret) {}, "stringData": func(s *corev1.Secret) { s.Data, s.StringData = nil, map[string]string{"a": canary} },
	} {
		bare := s.DeepCopy()
		change(bare)
		if _, err := Put(bare, 0); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s in clear: %v, want a refusal without the value", name, err)
		}
	}
	row := secretRow(t)
	if strings.Contains(string(row.Body), canary) || strings.Contains(string(row.Body), base64.StdEncoding.EncodeToString([]byte(canary))[:20]) {
		t.Errorf("the row holds the value: %s", row.Body)
	}
	open, err := OpenSecret(row, turner{})
	if err != nil || string(open.Data["password"]) != canary {
		t.Errorf("opened: %q, %v", open.Data["password"], err)
	}
	again, err := SealSecret(open, row, turner{})
	if err != nil {
		t.Fatal(err)
	}
	if have, _ := Decode[corev1.Secret](row); string(have.Data["password"]) != string(again.Data["password"]) {
		t.Error("a value that did not change was sealed anew")
	}
	if _, err := OpenSecret(row, turner{other: true}); !errors.Is(err, errTurner) {
		t.Errorf("another key: %v", err)
	}
	moved := *row
	moved.Body = []byte(strings.Replace(string(row.Body), `"name":"db"`, `"name":"eb"`, 1))
	if _, err := OpenSecret(&moved, turner{}); err == nil {
		t.Error("sealed values of one Secret open as another's")
	}
}

func TestAManifestOfASecretIsTakenAsKubernetesDoes(t *testing.T) {
	m := parseOne(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {a: plain, b: over}\ndata: {b: dW5kZXI=, c: YWJj}\n")
	s := m.Object.(*corev1.Secret)
	if s.Type != corev1.SecretTypeOpaque || len(s.StringData) > 0 || fmt.Sprintf("%s", s.Data) != "map[a:plain b:over c:abc]" {
		t.Errorf("got %s %s %v", s.Type, s.Data, s.StringData)
	}
}

// TestNoErrorTellsAValue writes what is wrong in every way, with a value that must
// not come back.
func TestNoErrorTellsAValue(t *testing.T) {
	const head = "apiVersion: v1\nmetadata: {name: db}\n"
	for name, text := range map[string]string{
		"no base64":     head + "kind: Secret\ndata: {a: '" + canary + "!'}\n",
		"a list":        head + "kind: Secret\nstringData: {a: [" + canary + "]}\n",
		"a number":      head + "kind: Secret\nstringData: {a: 712345678}\n",
		"as a whole":    head + "kind: Secret\nstringData: " + canary + "\n",
		"of ConfigMap":  head + "kind: ConfigMap\ndata: {a: [" + canary + "]}\n",
		"number there":  head + "kind: ConfigMap\ndata: {a: 712345678}\n",
		"binary there":  head + "kind: ConfigMap\nbinaryData: {a: '" + canary + "!'}\n",
		"bad key":       head + "kind: Secret\nstringData: {'a b': " + canary + "}\n",
		"tls":           head + "kind: Secret\ntype: kubernetes.io/tls\nstringData: {tls.crt: " + canary + "}\n",
		"ssh":           head + "kind: Secret\ntype: kubernetes.io/ssh-auth\nstringData: {a: " + canary + "}\n",
		"basic":         head + "kind: Secret\ntype: kubernetes.io/basic-auth\nstringData: {a: " + canary + "}\n",
		"docker":        head + "kind: Secret\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: " + canary + "}\n",
		"docker misses": head + "kind: Secret\ntype: kubernetes.io/dockercfg\nstringData: {a: " + canary + "}\n",
		"kubectl's":     "apiVersion: v1\nkind: Secret\nmetadata: {name: db, annotations: {kubectl.kubernetes.io/last-applied-configuration: " + canary + "}}\n",
		"token":         head + "kind: Secret\ntype: kubernetes.io/service-account-token\nstringData: {a: " + canary + "}\n",
		"too large":     head + "kind: Secret\nstringData: {a: " + canary + strings.Repeat("x", maxData) + "}\n",
		"twice":         head + "kind: ConfigMap\ndata: {a: " + canary + "}\nbinaryData: {a: ''}\n",
		"YAML":          head + "kind: Secret\nstringData: {a: " + canary + "\n",
		"key twice":     head + "kind: Secret\nstringData: {a: " + canary + ", a: " + canary + "}\n",
	} {
		_, err := Parse("s.yaml", []byte(text), "")
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		var m *ManifestError
		if told := err.Error(); !errors.As(err, &m) || strings.Contains(told+m.Hint, canary) || strings.Contains(told+m.Hint, "712345678") {
			t.Errorf("%s: %v (%s)", name, err, m.Hint)
		}
	}
}

func TestImmutableDataStays(t *testing.T) {
	was := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "app", Namespace: "default", UID: "u"}, Data: map[string]string{"a": "1"}, Immutable: new(bool)}
	*was.Immutable = true
	row := rowOf(t, was, 3)
	for text, want := range map[string]string{
		"data: {a: '2'}\nimmutable: true": "data: cannot be changed",
		"data: {a: '1'}":                  "immutable: cannot be taken back",
		"data: {a: '1'}\nimmutable: true": "",
	} {
		m := parseOne(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\n"+text+"\n")
		_, _, err := m.Update(row)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestOldBuildsAreSparedWhatTheyWouldMisread(t *testing.T) {
	for text, want := range map[string]string{
		web: "",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {volumes: [{name: v}], containers: [{name: a, image: b}]}\n":                             "spec.volumes.name",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b, envFrom: [{prefix: A_, configMapRef: {name: c}}]}]}\n": "spec.containers.envFrom.configMapRef.name",
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n":                                                                                        "the kind ConfigMap",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n":                                                                                        "",
		"apiVersion: v1\nkind: Namespace\nmetadata: {name: a, annotations: {skein.dev/host-path: allow}}\n":                                             `metadata.annotations["skein.dev/host-path"]`,
		"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b, stdin: false}]}\n":                                     "",
	} {
		m := parseOne(t, text)
		format, because, err := Format(m.Object)
		if err != nil || because != want || (format == FormatPods) != (want != "") {
			t.Errorf("%s: format %d because of %q, %v; want %q", text, format, because, err, want)
		}
	}
}
