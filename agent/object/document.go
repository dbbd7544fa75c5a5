package object

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/skein-dev/skein/consensus/state"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Document writes rows as JSON or YAML, one object if single is set and there is
// just one, else a List; or as kind/name, one a line.
func Document(rows []*state.Row, format skeinv1.Format, single bool) ([]byte, error) {
	if format == skeinv1.Format_FORMAT_NAME {
		return names(rows), nil
	}
	items := make([]any, len(rows))
	for i, row := range rows {
		body, err := shown(row)
		if err != nil {
			return nil, err
		}
		items[i] = body
	}
	var doc any = map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
	if single && len(items) == 1 {
		doc = items[0]
	}
	var out bytes.Buffer
	switch format {
	case skeinv1.Format_FORMAT_JSON:
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "    ")
		if err := e.Encode(doc); err != nil {
			return nil, fmt.Errorf("write JSON: %w", err)
		}
	case skeinv1.Format_FORMAT_YAML:
		e := yaml.NewEncoder(&out)
		e.SetIndent(2)
		e.CompactSeqIndent()
		if err := e.Encode(plain(doc)); err != nil {
			return nil, fmt.Errorf("write YAML: %w", err)
		}
		if err := e.Close(); err != nil {
			return nil, fmt.Errorf("write YAML: %w", err)
		}
	default:
		return nil, fmt.Errorf("format %s is no document", format)
	}
	return out.Bytes(), nil
}

func names(rows []*state.Row) []byte {
	var out bytes.Buffer
	for _, row := range rows {
		word := strings.ToLower(row.Key.Kind)
		if k, ok := kindsByName[row.Key.Kind]; ok {
			word = k.Singular
		}
		out.WriteString(word + "/" + row.Key.Name + "\n")
	}
	return out.Bytes()
}

// shown returns the object in a row as people see it: every field that is
// stored, known to this agent or not, and its version.
func shown(row *state.Row) (map[string]any, error) {
	var body map[string]any
	if err := decodeAny(row.Body, &body); err != nil {
		return nil, fmt.Errorf("decode %s: %w", row.Key, err)
	}
	meta, ok := body["metadata"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("decode %s: it has no metadata", row.Key)
	}
	meta["resourceVersion"] = strconv.FormatUint(row.Version, 10)
	return body, nil
}

// plain turns JSON's numbers into Go's, which YAML writes without quotes.
func plain(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			v[name] = plain(field)
		}
	case []any:
		for i, item := range v {
			v[i] = plain(item)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	}
	return v
}
