package state

import "slices"

// name is a key without its kind: a table has one kind.
type name struct{ namespace, name string }

// A slot is the place of one object. It stays the same while rows in it come and
// go, so that a change which keeps the index strings touches no index.
type slot struct{ row *Row }

type slots map[*slot]struct{}

// A table holds the rows of one kind.
type table struct {
	kind   string
	rows   map[name]*slot
	spaces map[string]slots // by namespace
	index  map[string]slots // by index string
}

func newTable(kind string) *table {
	return &table{
		kind:   kind,
		rows:   make(map[name]*slot),
		spaces: make(map[string]slots),
		index:  make(map[string]slots),
	}
}

func (t *table) get(namespace, object string) *Row {
	if t == nil {
		return nil
	}
	if s := t.rows[name{namespace, object}]; s != nil {
		return s.row
	}
	return nil
}

// put stores row and returns the row it replaces, or nil.
func (t *table) put(row *Row) *Row {
	n := name{row.Key.Namespace, row.Key.Name}
	s := t.rows[n]
	if s == nil {
		s = &slot{row: row}
		t.rows[n] = s
		add(t.spaces, n.namespace, s)
		for _, key := range row.Index {
			add(t.index, key, s)
		}
		return nil
	}
	old := s.row
	s.row = row
	if !slices.Equal(old.Index, row.Index) {
		t.reindex(s, old.Index, row.Index)
	}
	return old
}

func (t *table) reindex(s *slot, old, now []string) {
	for _, key := range old {
		if !slices.Contains(now, key) {
			remove(t.index, key, s)
		}
	}
	for _, key := range now {
		add(t.index, key, s)
	}
}

// delete removes a row and returns it, or nil.
func (t *table) delete(namespace, object string) *Row {
	if t == nil {
		return nil
	}
	n := name{namespace, object}
	s := t.rows[n]
	if s == nil {
		return nil
	}
	delete(t.rows, n)
	remove(t.spaces, namespace, s)
	for _, key := range s.row.Index {
		remove(t.index, key, s)
	}
	return s.row
}

// collect appends the rows that match to rows, in no order. It looks at the
// smallest set that holds them all.
func (t *table) collect(rows []*Row, namespace, index string) []*Row {
	switch {
	case t == nil:
	case index != "":
		set := t.index[index]
		rows = slices.Grow(rows, len(set))
		for s := range set {
			if namespace == "" || s.row.Key.Namespace == namespace {
				rows = append(rows, s.row)
			}
		}
	case namespace != "":
		set := t.spaces[namespace]
		rows = slices.Grow(rows, len(set))
		for s := range set {
			rows = append(rows, s.row)
		}
	default:
		rows = slices.Grow(rows, len(t.rows))
		for _, s := range t.rows {
			rows = append(rows, s.row)
		}
	}
	return rows
}

func add(sets map[string]slots, key string, s *slot) {
	set := sets[key]
	if set == nil {
		set = make(slots, 1)
		sets[key] = set
	}
	set[s] = struct{}{}
}

func remove(sets map[string]slots, key string, s *slot) {
	set := sets[key]
	delete(set, s)
	if len(set) == 0 {
		delete(sets, key)
	}
}
