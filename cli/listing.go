package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (l *listing) print(answers []*skeinv1.GetResponse, requests []*skeinv1.GetRequest) error {
	if l.table() {
		return l.printTables(answers, requests)
	}
	document, err := l.merge(answers)
	if err != nil {
		return err
	}
	_, err = l.session.stdout.Write(endLine(document))
	return err
}

func endLine(document []byte) []byte {
	if len(document) > 0 && document[len(document)-1] != '\n' {
		return append(slices.Clone(document), '\n')
	}
	return document
}

// merge makes one document of several answers: one List of JSON, a stream of
// YAML, lines of names.
func (l *listing) merge(answers []*skeinv1.GetResponse) ([]byte, error) {
	if len(answers) == 1 {
		return answers[0].GetDocument(), nil
	}
	var documents [][]byte
	for _, answer := range answers {
		documents = append(documents, bytes.TrimRight(answer.GetDocument(), "\n"))
	}
	switch l.format {
	case skeinv1.Format_FORMAT_JSON:
		return mergeJSON(documents)
	case skeinv1.Format_FORMAT_YAML:
		return bytes.Join(documents, []byte("\n---\n")), nil
	default:
		documents = slices.DeleteFunc(documents, func(d []byte) bool { return len(d) == 0 })
		return bytes.Join(documents, []byte("\n")), nil
	}
}

func mergeJSON(documents [][]byte) ([]byte, error) {
	list := struct {
		APIVersion string            `json:"apiVersion"`
		Kind       string            `json:"kind"`
		Items      []json.RawMessage `json:"items"`
	}{APIVersion: "v1", Kind: "List", Items: []json.RawMessage{}}
	for _, document := range documents {
		var one struct {
			Kind  string            `json:"kind"`
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(document, &one); err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		if one.Kind == "List" {
			list.Items = append(list.Items, one.Items...)
		} else {
			list.Items = append(list.Items, document)
		}
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encode the list: %w", err)
	}
	return indentJSON(raw)
}

// printTables draws a table per kind; answers about one kind share theirs.
func (l *listing) printTables(answers []*skeinv1.GetResponse, requests []*skeinv1.GetRequest) error {
	var shown int
	for i := 0; i < len(answers); {
		table := &skeinv1.Table{Columns: answers[i].GetTable().GetColumns()}
		word := kindOf(requests[i].GetKind()).words[0]
		for ; i < len(answers) && slices.Equal(answers[i].GetTable().GetColumns(), table.GetColumns()); i++ {
			if l.many && kindOf(requests[i].GetKind()).words[0] != word {
				break
			}
			table.Rows = append(table.Rows, answers[i].GetTable().GetRows()...)
		}
		if len(table.GetRows()) == 0 {
			continue
		}
		if shown > 0 && !l.quiet {
			fmt.Fprintln(l.session.stdout)
		}
		shown++
		g := &grid{columns: table.GetColumns(), now: l.session.now}
		if err := g.write(l.session.stdout, l.header, l.rows(g, table, word)); err != nil {
			return err
		}
	}
	if shown == 0 {
		l.nothing(requests)
	}
	return nil
}

func (l *listing) rows(g *grid, table *skeinv1.Table, word string) [][]string {
	var rows [][]string
	for _, row := range table.GetRows() {
		rows = append(rows, l.row(g, row, word))
	}
	return rows
}

func (l *listing) row(g *grid, row *skeinv1.TableRow, word string) []string {
	if l.quiet {
		if at := slices.Index(g.columns, "REFERENCE"); at >= 0 && at < len(row.GetCells()) {
			return []string{clean(row.GetCells()[at])} // which is what people call an image
		}
		name := strings.TrimPrefix(row.GetKey(), "/")
		if !l.all {
			name = path.Base(name)
		}
		return []string{clean(name)}
	}
	cells := g.cells(row)
	if at := slices.Index(g.columns, "NAME"); l.many && at >= 0 && at < len(cells) {
		cells[at] = word + "/" + cells[at]
	}
	return cells
}

func (l *listing) nothing(requests []*skeinv1.GetRequest) {
	if l.quiet {
		return
	}
	k := kindOf(requests[0].GetKind())
	what := k.words[0]
	if len(k.words) > 1 {
		what = k.words[1]
	}
	if len(requests) > 1 {
		what = "objects"
	}
	where := " in namespace " + requests[0].GetNamespace()
	if l.all {
		where = ""
	}
	if k.clusterOwn {
		where = ""
	}
	fmt.Fprintf(l.session.stderr, "no %s%s\n", what, where)
}
