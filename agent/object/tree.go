package object

import (
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// Limits on what people send. They hold before anything is decoded.
const (
	maxManifest  = 4 << 20 // bytes, all documents together
	maxDocument  = 2 << 20 // bytes
	maxDocuments = 500
	maxDepth     = 50
	maxNodes     = 20_000 // values in one document, aliases counted as often as they are used
)

// shape is what a value is, whatever language it was written in.
type shape uint8

const (
	nothing shape = iota // null
	text
	integer
	decimal
	boolean
	list
	object
)

func (s shape) String() string {
	return [...]string{"nothing", "a string", "a whole number", "a number", "true or false", "a list", "a mapping"}[s]
}

// A value is one node of a manifest, with the line it was written on.
type value struct {
	shape  shape
	line   int
	text   string // of a scalar, as written
	items  []*value
	fields []pair // of an object, no name twice
	quiet  bool   // it is not told in errors
}

type pair struct {
	name string
	line int
	val  *value
}

// at returns the field of an object, nil if it has none of that name.
func (v *value) at(name string) *value {
	if v == nil {
		return nil
	}
	for _, f := range v.fields {
		if f.name == name {
			return f.val
		}
	}
	return nil
}

// empty reports that v says nothing: null, [] or {}.
func (v *value) empty() bool {
	return v.shape == nothing || v.shape == list && len(v.items) == 0 || v.shape == object && len(v.fields) == 0
}

// short returns v as it is told in an error.
func (v *value) short() string {
	if v.quiet {
		return v.shape.String()
	}
	switch v.shape {
	case text:
		return "the string " + strconv.Quote(clip(v.text))
	case integer, decimal:
		return "the number " + clip(v.text)
	case boolean:
		return clip(v.text)
	default:
		return v.shape.String()
	}
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:37] + "..."
	}
	return s
}

// A treeError is a fault of the text itself.
type treeError struct {
	line   int
	msg    string
	hint   string
	syntax bool // it is no text of its language at all
}

func (e *treeError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.msg) }

// budget counts what one document may still hold.
type budget struct{ nodes int }

func (b *budget) spend(line, depth int) error {
	b.nodes++
	switch {
	case b.nodes > maxNodes:
		return &treeError{line: line, msg: fmt.Sprintf("holds more than %d values", maxNodes)}
	case depth > maxDepth:
		return &treeError{line: line, msg: fmt.Sprintf("is nested more than %d deep", maxDepth)}
	}
	return nil
}

// fromYAML turns a parsed document into values. Lines count from offset.
func fromYAML(n *yaml.Node, offset int) (*value, error) {
	if n.Kind == yaml.DocumentNode {
		n = n.Content[0]
	}
	c := converter{offset: offset}
	return c.value(n, 1)
}

type converter struct {
	budget
	offset int
}

func (c *converter) value(n *yaml.Node, depth int) (*value, error) {
	line := n.Line + c.offset
	if err := c.spend(line, depth); err != nil {
		return nil, err
	}
	v := &value{line: line}
	switch n.Kind {
	case yaml.AliasNode:
		return c.value(n.Alias, depth+1) // an alias of itself ends at the depth limit
	case yaml.ScalarNode:
		return v, c.scalar(v, n)
	case yaml.SequenceNode:
		if err := c.tag(n, "!!seq"); err != nil {
			return nil, err
		}
		v.shape = list
		for _, item := range n.Content {
			child, err := c.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			v.items = append(v.items, child)
		}
		return v, nil
	case yaml.MappingNode:
		if err := c.tag(n, "!!map"); err != nil {
			return nil, err
		}
		v.shape = object
		return v, c.mapping(v, n, depth)
	}
	return nil, &treeError{line: line, msg: "cannot be read"}
}

func (c *converter) tag(n *yaml.Node, want string) error {
	if tag := n.ShortTag(); tag != want && tag != "!" {
		return &treeError{line: n.Line + c.offset, msg: fmt.Sprintf("the tag %s is not supported", clip(n.Tag))}
	}
	return nil
}

func (c *converter) scalar(v *value, n *yaml.Node) error {
	v.text = n.Value
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!timestamp", "!!merge", "!": // a date is a string, as in JSON
		v.shape = text
	case "!!null":
		v.shape = nothing
	case "!!bool":
		v.shape = boolean
		var b bool
		if err := n.Decode(&b); err != nil {
			return &treeError{line: v.line, msg: fmt.Sprintf("%q is neither true nor false", clip(n.Value))}
		}
		v.text = strconv.FormatBool(b)
	case "!!int":
		v.shape = integer
	case "!!float":
		v.shape = decimal
	default:
		return &treeError{line: v.line, msg: fmt.Sprintf("the tag %s is not supported", clip(tag))}
	}
	return nil
}

func (c *converter) mapping(v *value, n *yaml.Node, depth int) error {
	lines := make(map[string]int, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		line := key.Line + c.offset
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return &treeError{line: line, msg: "a key must be a string"}
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, val)
			continue
		}
		if before, twice := lines[key.Value]; twice {
			return &treeError{line: line, msg: fmt.Sprintf("%q is given twice, first on line %d", clip(key.Value), before)}
		}
		lines[key.Value] = line
		child, err := c.value(val, depth+1)
		if err != nil {
			return err
		}
		v.fields = append(v.fields, pair{name: key.Value, line: line, val: child})
	}
	for _, m := range merges {
		if err := c.merge(v, m, lines, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// merge adds the fields of `<<: *anchor` that v does not have itself.
func (c *converter) merge(v *value, n *yaml.Node, lines map[string]int, depth int) error {
	from, err := c.value(n, depth)
	if err != nil {
		return err
	}
	sources := []*value{from}
	if from.shape == list {
		sources = from.items
	}
	for _, s := range sources {
		if s.shape != object {
			return &treeError{line: n.Line + c.offset, msg: "<< takes a mapping, or a list of them"}
		}
		for _, f := range s.fields {
			if _, own := lines[f.name]; !own {
				lines[f.name] = f.line
				v.fields = append(v.fields, f)
			}
		}
	}
	return nil
}
