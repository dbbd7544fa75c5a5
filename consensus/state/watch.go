package state

// A Watch says that rows of its selectors have changed. Close it after use.
type Watch struct {
	store     *Store
	selectors []Selector
	c         chan struct{}
	late      chan struct{} // as c, for selectors that are Late

	// Guarded by the store's mutex. Only a writer sets pending and only the
	// watch's one reader clears it, so to read it a read lock will do.
	pending uint64 // position of the first change not looked at, 0: none
	laps    bool   // wants to be told of laps of the ring
}

// Changed returns a Watch of rows that match any of the selectors, from now on.
func (s *Store) Changed(selectors ...Selector) *Watch {
	return s.watch(selectors, false)
}

func (s *Store) watch(selectors []Selector, laps bool) *Watch {
	w := &Watch{store: s, selectors: selectors, c: make(chan struct{}, 1), late: make(chan struct{}, 1), laps: laps}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches.add(w)
	return w
}

// C returns a channel, always the same, that delivers a signal after a matching
// change, a restore or a new epoch. Signals merge and may be spurious: they say
// "look again".
func (w *Watch) C() <-chan struct{} { return w.c }

// Close ends the watch; C delivers nothing more than what waits in it.
func (w *Watch) Close() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.watches.remove(w)
}

func (w *Watch) signal() { poke(w.c) }

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default: // a signal is already waiting
	}
}

func (w *Watch) mark(at uint64, late bool) {
	if w.pending == 0 {
		w.pending = at
	}
	if late {
		poke(w.late)
		return
	}
	poke(w.c)
}

// take returns the position of the first change since it was last called, or 0.
func (w *Watch) take() uint64 {
	at := w.pending
	w.pending = 0
	return at
}

// scope is a selector without its kind.
type scope struct{ namespace, index string }

// kindWatches are the watches of one kind by what they select. The counts tell
// which lookups can be saved.
type kindWatches struct {
	scopes                       map[scope]map[*Watch]bool // whether the selector is Late
	byNamespace, byIndex, byBoth int
}

// watches finds those whom a change matters to without asking the others.
type watches map[string]*kindWatches

func (ws watches) add(w *Watch) {
	for _, sel := range w.selectors {
		k := ws[sel.Kind]
		if k == nil {
			k = &kindWatches{scopes: make(map[scope]map[*Watch]bool)}
			ws[sel.Kind] = k
		}
		at := scope{sel.Namespace, sel.Index}
		if k.scopes[at] == nil {
			k.scopes[at] = make(map[*Watch]bool)
			k.count(at, 1)
		}
		late, again := k.scopes[at][w]
		k.scopes[at][w] = sel.Late && (late || !again)
	}
}

func (ws watches) remove(w *Watch) {
	for _, sel := range w.selectors {
		k, at := ws[sel.Kind], scope{sel.Namespace, sel.Index}
		if k == nil || k.scopes[at] == nil {
			continue
		}
		delete(k.scopes[at], w)
		if len(k.scopes[at]) == 0 {
			delete(k.scopes, at)
			k.count(at, -1)
		}
		if len(k.scopes) == 0 {
			delete(ws, sel.Kind)
		}
	}
}

// count keeps how many scopes there are of each shape.
func (k *kindWatches) count(s scope, n int) {
	switch {
	case s.namespace != "" && s.index != "":
		k.byBoth += n
	case s.namespace != "":
		k.byNamespace += n
	case s.index != "":
		k.byIndex += n
	}
}

// notify marks the watches that select either row of the change at a position.
func (ws watches) notify(at uint64, old, row *Row) {
	for _, r := range [2]*Row{old, row} {
		if r == nil {
			continue
		}
		ws[r.Key.Kind].notify(at, r)
		ws[AllKinds].notify(at, r)
	}
}

func (k *kindWatches) notify(at uint64, r *Row) {
	if k == nil {
		return
	}
	namespace := r.Key.Namespace
	k.mark(at, scope{})
	if k.byNamespace > 0 {
		k.mark(at, scope{namespace: namespace})
	}
	if k.byIndex == 0 && k.byBoth == 0 {
		return
	}
	for _, index := range r.Index {
		k.mark(at, scope{index: index})
		if k.byBoth > 0 {
			k.mark(at, scope{namespace, index})
		}
	}
}

func (k *kindWatches) mark(at uint64, s scope) {
	for w, late := range k.scopes[s] {
		w.mark(at, late)
	}
}

// all signals every watch.
func (ws watches) all() {
	ws.each((*Watch).signal)
}

// lap signals the watches that want to know of laps.
func (ws watches) lap() {
	ws.each(func(w *Watch) {
		if w.laps {
			w.signal()
		}
	})
}

func (ws watches) each(do func(*Watch)) {
	for _, k := range ws {
		for _, set := range k.scopes {
			for w := range set {
				do(w)
			}
		}
	}
}
