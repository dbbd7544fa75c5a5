package object

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxData bounds the keys and values of one ConfigMap or Secret, in bytes, as
// in Kubernetes.
const maxData = 1 << 20

// lastApplied is where kubectl keeps a whole manifest, of a Secret its values in
// clear.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

var configMapRules = []rule{takes("data", "binaryData", "immutable")}

var secretRules = []rule{takes("data", "stringData", "immutable", "type")}

// defaultSecret takes stringData over into data, as Kubernetes does when it is
// written.
func defaultSecret(s *corev1.Secret) {
	if s.Type == "" {
		s.Type = corev1.SecretTypeOpaque
	}
	if len(s.StringData) > 0 {
		s.Data = maps.Clone(s.Data)
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		for k, v := range s.StringData {
			s.Data[k] = []byte(v)
		}
	}
	s.StringData = nil
}

func (p *problems) configMap(c *corev1.ConfigMap) {
	total := 0
	for _, k := range slices.Sorted(maps.Keys(c.Data)) {
		p.dataKey("data", k)
		total += len(k) + len(c.Data[k])
	}
	for _, k := range slices.Sorted(maps.Keys(c.BinaryData)) {
		p.dataKey("binaryData", k)
		total += len(k) + len(c.BinaryData[k])
		if _, twice := c.Data[k]; twice {
			p.add(keyed("binaryData", k), "is a key of data, too")
		}
	}
	p.dataSize(total)
}

func (p *problems) dataKey(path, key string) {
	p.each(keyed(path, key), key, validation.IsConfigMapKey(key))
}

func (p *problems) dataSize(total int) {
	if total > maxData {
		p.add("data", "larger than %d MiB in all", maxData>>20)
	}
}

// secretKeys are the keys that a type of Secrets must have, one of each list.
var secretKeys = map[corev1.SecretType][][]string{
	corev1.SecretTypeDockerConfigJson: {{corev1.DockerConfigJsonKey}},
	corev1.SecretTypeDockercfg:        {{corev1.DockerConfigKey}},
	corev1.SecretTypeTLS:              {{corev1.TLSCertKey}, {corev1.TLSPrivateKeyKey}},
	corev1.SecretTypeBasicAuth:        {{corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey}},
	corev1.SecretTypeSSHAuth:          {{corev1.SSHAuthPrivateKey}},
}

// secret tells what is wrong with a Secret whose values are in clear. None of
// them is ever told.
func (p *problems) secret(s *corev1.Secret) {
	total := 0
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		p.dataKey("data", k)
		total += len(k) + len(s.Data[k])
	}
	p.dataSize(total)
	if _, there := s.Annotations[lastApplied]; there {
		p.hint(keyed("metadata.annotations", lastApplied), "remove it: kubectl writes the values there, and annotations are no secrets", "not on a Secret")
	}
	switch {
	case s.Type == corev1.SecretTypeServiceAccountToken, s.Type == corev1.SecretTypeBootstrapToken:
		p.hint("type", "people and machines get tokens by \"skein token create\"", "%q is not supported", clip(string(s.Type)))
	case s.Type != corev1.SecretTypeOpaque && strings.HasPrefix(string(s.Type), "kubernetes.io/") && secretKeys[s.Type] == nil:
		p.add("type", "%q: there is no such type of Kubernetes", clip(string(s.Type)))
	case len(s.Type) > 253:
		p.add("type", "longer than 253 characters")
	}
	for _, keys := range secretKeys[s.Type] {
		if !slices.ContainsFunc(keys, func(k string) bool { _, there := s.Data[k]; return there }) {
			p.add("data", "a Secret of type %s has the key %s", s.Type, strings.Join(keys, " or "))
		}
	}
	for _, k := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
		if body, there := s.Data[k]; there && secretKeys[s.Type] != nil && secretKeys[s.Type][0][0] == k {
			var doc map[string]json.RawMessage
			if json.Unmarshal(body, &doc) != nil {
				p.add(keyed("data", k), "is no JSON object, as docker's config is")
			}
		}
	}
}

// immutableData tells of a change of an object that was made immutable.
func (p *problems) immutableData(was, is *bool, same bool) {
	if was == nil || !*was {
		return
	}
	const hint = "make another one and name that in the Pods, or delete it first"
	if is == nil || !*is {
		p.hint("immutable", hint, "cannot be taken back")
	}
	if !same {
		p.hint("data", hint, "cannot be changed: it is immutable")
	}
}

func immutableConfigMap(is, was *corev1.ConfigMap, p *problems) {
	p.immutableData(was.Immutable, is.Immutable, sameJSON(is.Data, was.Data) && sameJSON(is.BinaryData, was.BinaryData))
}

func immutableSecret(is, was *corev1.Secret, p *problems) {
	p.immutableData(was.Immutable, is.Immutable, sameJSON(is.Data, was.Data))
	if is.Type != was.Type {
		p.hint("type", "delete it and apply it again, or give it another name", "cannot be changed")
	}
}

// hush keeps what a person wrote as a value out of every error.
func hush(kind string, doc *value) {
	if kind != KindConfigMap && kind != KindSecret {
		return
	}
	for _, name := range []string{"data", "stringData", "binaryData"} {
		if v := doc.at(name); v != nil {
			v.silence()
		}
	}
}

func (v *value) silence() {
	v.quiet = true
	for _, item := range v.items {
		item.silence()
	}
	for _, f := range v.fields {
		f.val.silence()
	}
}

var configMapColumns = []column[corev1.ConfigMap]{
	{name: "NAME", cell: func(c *corev1.ConfigMap, _ *TableOptions) string { return c.Name }},
	{name: "DATA", cell: func(c *corev1.ConfigMap, _ *TableOptions) string {
		return itoa(int32(len(c.Data) + len(c.BinaryData))) //nolint:gosec // bounded by maxData
	}},
	{name: columnAge, cell: func(c *corev1.ConfigMap, _ *TableOptions) string { return stamp(c.CreationTimestamp.Time) }},
}

var secretColumns = []column[corev1.Secret]{
	{name: "NAME", cell: func(s *corev1.Secret, _ *TableOptions) string { return s.Name }},
	{name: "TYPE", cell: func(s *corev1.Secret, _ *TableOptions) string { return string(s.Type) }},
	{name: "DATA", cell: func(s *corev1.Secret, _ *TableOptions) string { return itoa(int32(len(s.Data))) }}, //nolint:gosec // bounded by maxData
	{name: columnAge, cell: func(s *corev1.Secret, _ *TableOptions) string { return stamp(s.CreationTimestamp.Time) }},
}

// maxShown is how much of one value of a ConfigMap its description shows.
const maxShown = 2000

func (d *description) configMap(c *corev1.ConfigMap) {
	if c.Immutable != nil && *c.Immutable {
		d.put("Immutable", "yes")
	}
	d.title("Data")
	for _, k := range slices.Sorted(maps.Keys(c.Data)) {
		d.title(k)
		for line := range strings.Lines(clipTo(c.Data[k], maxShown)) {
			d.line("%s", harmlessText(strings.TrimRight(line, "\r\n")))
		}
		d.end()
	}
	for _, k := range slices.Sorted(maps.Keys(c.BinaryData)) {
		d.line("%s: %d bytes", k, len(c.BinaryData[k]))
	}
	d.end()
}

// harmlessText leaves no control character in a line, which a terminal could obey.
func harmlessText(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// secret tells the keys and how long their values are, never a value: what is
// described is sealed.
func (d *description) secret(s *corev1.Secret) {
	d.put("Type", string(s.Type))
	if s.Immutable != nil && *s.Immutable {
		d.put("Immutable", "yes")
	}
	d.title("Data")
	for _, k := range slices.Sorted(maps.Keys(s.Data)) {
		d.line("%s: %d bytes", k, ClearSize(s.Data[k]))
	}
	d.end()
}
