package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// patience is how long a watch goes on trying when nobody answers.
const patience = 30 * time.Second

// watch prints what is there and then every change, a row at a time below the
// first ones. When the stream breaks it resumes and prints only what differs.
func (l *listing) watch(ctx context.Context, cluster *cluster, request *skeinv1.GetRequest) error {
	w := &watcher{listing: l, known: map[string][]string{}, objects: map[string]string{}, grid: &grid{now: l.session.now}}
	return l.session.keep(ctx, func(ctx context.Context, alive func()) error {
		stream, err := cluster.Watch(ctx, request)
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }() // what matters was said by Receive
		for {
			message, err := stream.Receive()
			if err != nil {
				return err
			}
			alive()
			if err := w.take(message); err != nil {
				return err
			}
		}
	})
}

// keep runs a stream again whenever it breaks, until ctx ends, the server
// refuses, or nobody has answered for as long as patience lasts.
func (s *session) keep(ctx context.Context, run func(ctx context.Context, alive func()) error) error {
	lost := time.Time{} // since when nothing came
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := run(ctx, func() { lost, pause = time.Time{}, firstPause })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			err = &unreachableError{failure: failure{message: "the answer ended early", code: exitFailed}}
		}
		if !passing(err) {
			return err
		}
		if lost.IsZero() {
			lost = s.now()
			fmt.Fprintf(s.stderr, "warning: %s; trying again\n", clean(explain(err).message))
		}
		if s.now().Sub(lost) > patience || !sleep(ctx, pause) {
			return err
		}
	}
}

type watcher struct {
	*listing
	grid    *grid
	known   map[string][]string // cells by key, as sent
	pending []*skeinv1.TableRow // of the present state, until all of it is here
	synced  bool
	headed  bool
	begun   map[string]bool   // keys seen since a reset
	objects map[string]string // version by uid, of JSON
}

func (w *watcher) take(message *skeinv1.WatchResponse) error {
	if message.GetReset_() {
		w.synced, w.pending, w.begun = false, nil, map[string]bool{}
	}
	if document := message.GetDocument(); len(document) > 0 {
		return w.document(document)
	}
	if columns := message.GetTable().GetColumns(); len(columns) > 0 {
		w.grid.columns = columns
	}
	w.pending = append(w.pending, message.GetTable().GetRows()...)
	if !w.synced && !message.GetSynced() {
		return nil
	}
	deleted := message.GetDeleted()
	if message.GetSynced() && !w.synced {
		w.synced = true
		deleted = append(deleted, w.vanished()...)
	}
	if err := w.flush(); err != nil {
		return err
	}
	return w.gone(deleted)
}

// vanished are the keys that were there before a reset and did not come back.
func (w *watcher) vanished() []string {
	if w.begun == nil {
		return nil
	}
	for _, row := range w.pending {
		w.begun[row.GetKey()] = true
	}
	var keys []string
	for key := range w.known {
		if !w.begun[key] {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// flush prints the rows that differ from what was printed of them. Those that
// are there from the start come in the order of a list.
func (w *watcher) flush() error {
	var rows [][]string
	if len(w.known) == 0 && !slices.Contains(w.grid.columns, "LAST SEEN") {
		slices.SortStableFunc(w.pending, func(a, b *skeinv1.TableRow) int { return strings.Compare(a.GetKey(), b.GetKey()) })
	}
	for _, row := range w.pending {
		if slices.Equal(w.known[row.GetKey()], row.GetCells()) {
			continue
		}
		w.known[row.GetKey()] = row.GetCells()
		rows = append(rows, w.row(w.grid, row, ""))
	}
	w.pending = nil
	if len(rows) == 0 {
		return nil
	}
	header := w.header && !w.headed
	w.headed = true
	return w.grid.write(w.session.stdout, header, rows)
}

// gone prints the last row of what was deleted once more, and says so.
func (w *watcher) gone(keys []string) error {
	for _, key := range keys {
		cells, ok := w.known[key]
		if !ok {
			continue
		}
		delete(w.known, key)
		if w.quiet || !w.table() {
			continue
		}
		row := append(w.row(w.grid, &skeinv1.TableRow{Key: key, Cells: cells}, ""), "(deleted)")
		if err := w.grid.write(w.session.stdout, false, [][]string{row}); err != nil {
			return err
		}
	}
	return nil
}

// document prints an object, but not again after a reset the version that it
// had before.
func (w *watcher) document(document []byte) error {
	if w.format == skeinv1.Format_FORMAT_JSON {
		var object struct {
			Metadata struct {
				UID             string `json:"uid"`
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
		}
		if json.Unmarshal(document, &object) == nil && object.Metadata.UID != "" {
			if w.objects[object.Metadata.UID] == object.Metadata.ResourceVersion {
				return nil
			}
			w.objects[object.Metadata.UID] = object.Metadata.ResourceVersion
		}
	}
	if w.format == skeinv1.Format_FORMAT_YAML {
		if w.headed {
			document = append([]byte("---\n"), document...)
		}
		w.headed = true
	}
	_, err := w.session.stdout.Write(endLine(bytes.TrimLeft(document, "\n")))
	return err
}
