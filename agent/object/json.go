package object

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// readJSON reads any number of JSON values.
func readJSON(data []byte) ([]*value, error) {
	r := jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data}
	r.dec.UseNumber()
	var docs []*value
	for {
		r.budget = budget{}
		from := r.dec.InputOffset()
		v, err := r.next(1)
		if errors.Is(err, io.EOF) && v == nil {
			return docs, nil
		}
		if err != nil {
			return nil, r.fault(err)
		}
		if r.dec.InputOffset()-from > maxDocument {
			return nil, &treeError{line: v.line, msg: fmt.Sprintf("is a document larger than %d MB", maxDocument>>20)}
		}
		if v.shape != nothing {
			docs = append(docs, v)
		}
		if len(docs) > maxDocuments {
			return nil, &treeError{line: v.line, msg: fmt.Sprintf("holds more than %d documents", maxDocuments)}
		}
	}
}

type jsonReader struct {
	budget
	dec  *json.Decoder
	data []byte
	at   int64 // up to here lines have been counted
	line int
}

// here returns the line that has been read up to.
func (r *jsonReader) here() int {
	to := min(r.dec.InputOffset(), int64(len(r.data)))
	r.line += bytes.Count(r.data[r.at:to], []byte("\n"))
	r.at = to
	return r.line + 1
}

func (r *jsonReader) fault(err error) error {
	var own *treeError
	if errors.As(err, &own) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	var syntax *json.SyntaxError
	line := r.here()
	if errors.As(err, &syntax) {
		to := min(max(syntax.Offset-1, 0), int64(len(r.data)))
		line = 1 + bytes.Count(r.data[:to], []byte("\n"))
	}
	return &treeError{line: line, syntax: true, msg: "cannot be read as JSON: " + err.Error()}
}

// next reads one value. At the end of all it returns nil and io.EOF.
func (r *jsonReader) next(depth int) (*value, error) {
	token, err := r.dec.Token()
	if err != nil {
		if errors.Is(err, io.EOF) && depth > 1 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	v := &value{line: r.here()}
	if err := r.spend(v.line, depth); err != nil {
		return v, err
	}
	switch t := token.(type) {
	case string:
		v.shape, v.text = text, t
	case json.Number:
		v.shape, v.text = integer, t.String()
		if strings.ContainsAny(v.text, ".eE") {
			v.shape = decimal
		}
	case bool:
		v.shape, v.text = boolean, strconv.FormatBool(t)
	case json.Delim:
		if t == '[' {
			v.shape = list
			return v, r.list(v, depth)
		}
		v.shape = object
		return v, r.object(v, depth)
	}
	return v, nil
}

func (r *jsonReader) list(v *value, depth int) error {
	for r.dec.More() {
		item, err := r.next(depth + 1)
		if err != nil {
			return err
		}
		v.items = append(v.items, item)
	}
	_, err := r.dec.Token()
	return early(err)
}

func (r *jsonReader) object(v *value, depth int) error {
	lines := make(map[string]int)
	for r.dec.More() {
		token, err := r.dec.Token()
		if err != nil {
			return early(err)
		}
		name, _ := token.(string) // the decoder takes no other
		line := r.here()
		if before, twice := lines[name]; twice {
			return &treeError{line: line, msg: fmt.Sprintf("%q is given twice, first on line %d", clip(name), before)}
		}
		lines[name] = line
		val, err := r.next(depth + 1)
		if err != nil {
			return err
		}
		v.fields = append(v.fields, pair{name: name, line: line, val: val})
	}
	_, err := r.dec.Token()
	return early(err)
}

func early(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
