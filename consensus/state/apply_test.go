package state

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

func TestApplyKeepsToWhatATransactionExpects(t *testing.T) {
	tests := map[string]struct {
		txn  *logv1.Txn
		want *ConflictError
		rows []string
	}{
		"blind put replaces":              {txn: txn(put(pod("a"), "2")), rows: []string{"Pod default/a"}},
		"blind put creates":               {txn: txn(put(pod("b"), "1")), rows: []string{"Pod default/a", "Pod default/b"}},
		"put at the right version":        {txn: txn(at(1, put(pod("a"), "2"))), rows: []string{"Pod default/a"}},
		"put at an old version":           {txn: txn(at(7, put(pod("a"), "2"))), want: &ConflictError{pod("a"), 1, 7}, rows: []string{"Pod default/a"}},
		"create what exists":              {txn: txn(at(0, put(pod("a"), "2"))), want: &ConflictError{pod("a"), 1, 0}, rows: []string{"Pod default/a"}},
		"put what is gone":                {txn: txn(at(1, put(pod("b"), "2"))), want: &ConflictError{pod("b"), 0, 1}, rows: []string{"Pod default/a"}},
		"delete":                          {txn: txn(del(pod("a"))), rows: []string{}},
		"delete what is not there":        {txn: txn(del(pod("b"))), rows: []string{"Pod default/a"}},
		"delete at a version that is not": {txn: txn(at(3, del(pod("b")))), want: &ConflictError{pod("b"), 0, 3}, rows: []string{"Pod default/a"}},
		"check that holds":                {txn: txn(at(1, check(pod("a"))), put(pod("b"), "1")), rows: []string{"Pod default/a", "Pod default/b"}},
		"check that does not":             {txn: txn(put(pod("b"), "1"), at(2, check(pod("a")))), want: &ConflictError{pod("a"), 1, 2}, rows: []string{"Pod default/a"}},
		"check of absence":                {txn: txn(at(0, check(pod("b"))), del(pod("a"))), rows: []string{}},
		"all or none":                     {txn: txn(del(pod("a")), put(pod("b"), "1"), at(9, put(pod("c"), "1"))), want: &ConflictError{pod("c"), 0, 9}, rows: []string{"Pod default/a"}},
		"expectations are of the state before": {
			txn: txn(at(1, put(pod("a"), "2")), at(1, put(pod("a"), "3"))), rows: []string{"Pod default/a"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := checked(t)
			if err := s.Apply(1, txn(put(pod("a"), "1", "node=n1"))); err != nil {
				t.Fatal(err)
			}
			err := s.Apply(2, tt.txn)
			var got *ConflictError
			if errors.As(err, &got); !cmp.Equal(got, tt.want) {
				t.Errorf("Apply answered %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(tt.rows, keys(s.List("Pod", "", ""))); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if s.Index() != 2 {
				t.Errorf("index is %d after entry 2", s.Index())
			}
			s.Verify()
		})
	}
}

func TestConflictErrorsReadWell(t *testing.T) {
	for want, err := range map[string]error{
		"Pod default/a exists already, at version 4":                    &ConflictError{pod("a"), 4, 0},
		"Node n1 is gone, version 4 was expected":                       &ConflictError{Key{Kind: "Node", Name: "n1"}, 0, 4},
		"Pod default/a has changed: it is at version 9, 4 was expected": &ConflictError{pod("a"), 9, 4},
	} {
		if err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
	}
}

func TestTransactionsOfAnEntryAnswerForThemselves(t *testing.T) {
	s := checked(t)
	errs := s.ApplyEntry(5, &logv1.Entry{Epoch: "e", Txns: []*logv1.Txn{
		txn(at(0, put(pod("a"), "1"))),
		txn(at(0, put(pod("a"), "2"))), // the first one won
		txn(at(0, put(pod("b"), "1"))),
	}})
	if errs[0] != nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("answers are %v, want only the second refused", errs)
	}
	if row, _ := s.Get(pod("a")); string(row.Body) != "1" || row.Version != 5 {
		t.Errorf("a is %q at version %d", row.Body, row.Version)
	}
	if s.Epoch() != "e" {
		t.Errorf("epoch is %q", s.Epoch())
	}
}

func TestApplyPanicsRatherThanGuess(t *testing.T) {
	tests := map[string]struct {
		index uint64
		txn   *logv1.Txn
		want  string
	}{
		"operation from the future": {3, txn(&logv1.Op{Key: pod("a").Proto()}), "upgrade this agent"},
		"entry applied twice":       {2, txn(), "log entry 2 comes after entry 2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := New()
			_ = s.Apply(2, txn(put(pod("a"), "1")))
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, tt.want) {
					t.Errorf("panicked with %q, want %q in it", got, tt.want)
				}
			}()
			_ = s.Apply(tt.index, tt.txn)
		})
	}
}

func TestRowsAreFoundByWhatTheyAreNow(t *testing.T) {
	s := checked(t)
	_ = s.Apply(1, txn(put(pod("b"), "", "node=n1", "app=x"), put(pod("a"), "", "node=n1"), put(Key{"Pod", "other", "c"}, "", "node=n1")))
	_ = s.Apply(2, txn(put(pod("a"), "", "node=n2", "app=x"), put(Key{Kind: "Node", Name: "n1"}, "")))
	tests := map[string]struct {
		sel  Selector
		want []string
	}{
		"kind":                      {Selector{Kind: "Pod"}, []string{"Pod default/a", "Pod default/b", "Pod other/c"}},
		"namespace":                 {Selector{Kind: "Pod", Namespace: "other"}, []string{"Pod other/c"}},
		"index it came to":          {Selector{Kind: "Pod", Index: "node=n2"}, []string{"Pod default/a"}},
		"index it left":             {Selector{Kind: "Pod", Index: "node=n1"}, []string{"Pod default/b", "Pod other/c"}},
		"index within a namespace":  {Selector{Kind: "Pod", Namespace: "default", Index: "node=n1"}, []string{"Pod default/b"}},
		"second index string":       {Selector{Kind: "Pod", Index: "app=x"}, []string{"Pod default/a", "Pod default/b"}},
		"kind of the whole cluster": {Selector{Kind: "Node"}, []string{"Node n1"}},
		"every kind":                {Selector{Kind: AllKinds}, []string{"Node n1", "Pod default/a", "Pod default/b", "Pod other/c"}},
		"kind nobody wrote":         {Selector{Kind: "Job"}, []string{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := keysInOrder(s.List(tt.sel.Kind, tt.sel.Namespace, tt.sel.Index))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("List (-want +got):\n%s", diff)
			}
			s.Read(func(v View) {
				if diff := cmp.Diff(tt.want, keysInOrder(v.List(tt.sel.Kind, tt.sel.Namespace, tt.sel.Index))); diff != "" {
					t.Errorf("View.List (-want +got):\n%s", diff)
				}
				if n := v.Count(tt.sel.Kind, tt.sel.Namespace, tt.sel.Index); n != len(tt.want) {
					t.Errorf("Count is %d, want %d", n, len(tt.want))
				}
			})
		})
	}
}

func keysInOrder(rows []*Row) []string {
	names := make([]string, 0, len(rows))
	for _, row := range rows {
		names = append(names, row.Key.String())
	}
	return names
}

func TestAModifiedRowIsFound(t *testing.T) {
	reads := map[string]func(*Store){
		"by Get":     func(s *Store) { s.Get(pod("a")) },
		"by List":    func(s *Store) { s.List("Pod", "", "") },
		"by Verify":  func(s *Store) { s.Verify() },
		"by replace": func(s *Store) { _ = s.Apply(2, txn(put(pod("a"), "2"))) },
		"by a snapshot": func(s *Store) {
			s.Snapshot()
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			problems := 0
			s := New(Checked(func(string) { problems++ }))
			_ = s.Apply(1, txn(put(pod("a"), "body")))
			row, _ := s.Get(pod("a"))
			if read(s); problems != 0 {
				t.Fatal("an untouched row was reported")
			}
			if name == "by replace" { // it is gone now
				row, _ = s.Get(pod("a"))
				row.Body[0] = 'X'
				_ = s.Apply(3, txn(del(pod("a"))))
			} else {
				row.Body[0] = 'X'
				read(s)
			}
			if problems == 0 {
				t.Error("a modified row was not reported")
			}
		})
	}
}
