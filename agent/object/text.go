package object

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// A chunk is the text of one document.
type chunk struct {
	line int // of its first line in the file, from 0
	data []byte
}

// split cuts a YAML file at its "---" and "..." lines. Neither can be part of a
// value: at the start of a line they always end the document.
func split(data []byte) []chunk {
	var out []chunk
	start, startLine, line := 0, 0, 0
	end := func(at int) {
		if c := (chunk{line: startLine, data: data[start:at]}); !blank(c.data) {
			out = append(out, c)
		}
	}
	for at := 0; at < len(data); line++ {
		next := len(data)
		if n := bytes.IndexByte(data[at:], '\n'); n >= 0 {
			next = at + n + 1
		}
		if marks(data[at:next]) {
			end(at)
			start, startLine = at+3, line // what follows on the same line belongs to the next one
		}
		at = next
	}
	end(len(data))
	return out
}

func marks(line []byte) bool {
	return (bytes.HasPrefix(line, []byte("---")) || bytes.HasPrefix(line, []byte("..."))) &&
		(len(line) == 3 || strings.IndexByte(" \t\r\n", line[3]) >= 0)
}

// blank reports whether a document holds only comments and directives.
func blank(data []byte) bool {
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}

// read turns a file into its documents, within the limits. A document is nil
// when it is null.
func read(data []byte) ([]*value, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if len(data) > maxManifest {
		return nil, &treeError{line: 1, msg: fmt.Sprintf("is larger than %d MB", maxManifest>>20)}
	}
	if !utf8.Valid(data) {
		return nil, &treeError{line: 1 + bytes.Count(data[:invalidUTF8(data)], []byte("\n")), msg: "is no UTF-8 text"}
	}
	if first := bytes.TrimLeft(data, " \t\r\n"); len(first) > 0 && (first[0] == '{' || first[0] == '[') {
		docs, jsonErr := readJSON(data)
		var fault *treeError
		if !errors.As(jsonErr, &fault) || !fault.syntax {
			return docs, jsonErr
		}
		if docs, err := readYAML(data); err == nil {
			return docs, nil // flow style, which looks alike
		}
		return nil, jsonErr
	}
	return readYAML(data)
}

func invalidUTF8(data []byte) int {
	at := 0
	for at < len(data) {
		r, n := utf8.DecodeRune(data[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return at
}

func readYAML(data []byte) ([]*value, error) {
	chunks := split(data)
	if len(chunks) > maxDocuments {
		return nil, &treeError{line: 1 + chunks[maxDocuments].line, msg: fmt.Sprintf("holds more than %d documents", maxDocuments)}
	}
	var docs []*value
	for _, c := range chunks {
		if err := c.check(); err != nil {
			return nil, err
		}
		n, err := c.parse()
		if err != nil {
			return nil, err
		}
		v, err := fromYAML(n, c.line)
		if err != nil {
			return nil, err
		}
		if v.shape != nothing {
			docs = append(docs, v)
		}
	}
	return docs, nil
}

// maxMarks bounds the signs by which a YAML text makes values, before it is
// parsed: a parsed value costs some 300 bytes of memory.
const maxMarks = 5 * maxNodes

// check refuses a document that would be costly to parse.
func (c chunk) check() error {
	if len(c.data) > maxDocument {
		return &treeError{line: c.line + 1, msg: fmt.Sprintf("is a document larger than %d MB", maxDocument>>20)}
	}
	marks, deep := 0, 0
	for i, b := range c.data {
		switch b {
		case '\n', ',':
			marks++
		case '[', '{':
			marks++
			if deep++; deep > 10*maxNodes {
				return &treeError{line: c.line + 1, msg: "is nested too deep"}
			}
		case ':', '-', '?':
			if i+1 == len(c.data) || c.data[i+1] <= ' ' {
				marks++
			}
		}
	}
	if marks > maxMarks {
		return &treeError{line: c.line + 1, msg: fmt.Sprintf("holds more than %d values", maxNodes)}
	}
	return nil
}

// parse reads the one document that a chunk holds.
func (c chunk) parse() (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(c.data))
	var n, more yaml.Node
	if err := dec.Decode(&n); err != nil {
		return nil, c.syntax(err)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) { // the parser stops where a document seems to end
		if err == nil {
			err = fmt.Errorf("line %d: a document ends before this, without a line of ---", more.Line)
		}
		return nil, c.syntax(err)
	}
	return &n, nil
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// syntax places a parser's error in the file.
func (c chunk) syntax(err error) error {
	m := yamlLine.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0])
	out := &treeError{line: c.line + 1, syntax: true, msg: "cannot be read as YAML: " + err.Error()}
	if m == nil {
		return out
	}
	out.msg = "cannot be read as YAML: " + m[2]
	if n, err := strconv.Atoi(m[1]); err == nil {
		out.line = c.line + n
	}
	for line := range bytes.Lines(c.data) {
		if indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]; bytes.ContainsRune(indent, '\t') {
			out.hint = "indent with spaces: YAML does not take tabs"
			break
		}
	}
	return out
}
