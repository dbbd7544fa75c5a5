package leader

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/agent/place"
	"github.com/skein-dev/skein/consensus/state"
)

// An edit is the work on one draft. The model is locked meanwhile.
type edit struct {
	*reign
	d    *appsv1.Deployment
	row  *state.Row
	now  time.Time // by the wall clock
	wish wish

	hash      string
	current   *revision // nil before it is written
	revisions []*revision
	cast      cast
	number    int64 // of the newest Revision, with those that are drafted

	made    *object.Revision                  // that new Pods belong to, nil if there is no need to touch it
	changed bool                              // made must be written
	trimmed map[string]bool                   // Revisions that go, by uid
	counts  map[string]*object.RevisionStatus // by uid of the Revision

	deed deed
	out  draft
}

// gather sorts what there is into current and old.
func (e *edit) gather(without map[state.Key]bool) {
	e.hash = object.TemplateHash(&e.d.Spec.Template)
	for _, rev := range e.model.byParent[e.row.UID] {
		e.revisions = append(e.revisions, rev)
	}
	slices.SortFunc(e.revisions, func(a, b *revision) int {
		return cmp.Or(cmp.Compare(a.number, b.number), a.key.Compare(b.key))
	})
	for _, rev := range e.revisions {
		if rev.hash == e.hash {
			e.current = rev
		}
	}
	if e.current == nil && e.wish.paused && len(e.revisions) > 0 {
		e.current = e.revisions[len(e.revisions)-1] // the new template waits
	}
	for _, rev := range e.revisions {
		e.number = max(e.number, rev.number)
		for _, p := range e.model.byOwner[rev.uid] {
			switch {
			case without[p.key]:
			case rev == e.current:
				e.cast.current = append(e.cast.current, p)
			default:
				e.cast.old = append(e.cast.old, p)
			}
			if !without[p.key] && p.exclusive {
				e.wish.exclusive = true
			}
		}
	}
	if e.wish.exclusive = e.wish.exclusive || object.Exclusive(e.d.Spec.Template.Annotations); e.wish.exclusive {
		e.cast.present = max(e.occupied(without), len(e.cast.current)+len(e.cast.old))
	}
}

// write plans, and drafts the changes.
func (e *edit) write() error {
	if e.model.ending[e.d.Namespace] {
		return nil // its Pods go with the namespace
	}
	e.deed = e.wish.plan(e.cast, time.Now())
	e.out.again = e.deed.again
	if e.deed.create > maxPods || len(e.deed.remove) > maxPods {
		e.out.again = time.Nanosecond
		e.deed.create = min(e.deed.create, maxPods)
		e.deed.remove = e.deed.remove[:min(len(e.deed.remove), maxPods)]
	}
	if err := e.revision(); err != nil {
		return err
	}
	if err := e.create(e.made); err != nil {
		return err
	}
	if err := e.removeSome(); err != nil {
		return err
	}
	e.trim()
	return e.finish()
}

// revision finds the Revision that new Pods belong to, drafted if need be.
// finish writes it.
func (e *edit) revision() error {
	if e.current == nil {
		e.number++
		e.made = newRevision(e.d, e.hash, e.number, e.UID(), e.now)
		e.changed = true
		e.out.note(e.out.about, corev1.EventTypeNormal, "NewRevision", "revision %d is %s", e.number, e.made.Name)
		return nil
	}
	renumber := e.current.number < e.number && !e.wish.paused
	if e.deed.create == 0 && !renumber {
		return nil
	}
	rev, err := e.read(e.current)
	if err != nil {
		return err
	}
	if renumber { // an old template is wanted again
		e.number++
		rev.Spec.Number = e.number
		e.changed = true
	}
	e.made = rev
	return nil
}

// read decodes a Revision, which must be as the model has it.
func (e *edit) read(rev *revision) (*object.Revision, error) {
	row, ok := e.store.Get(rev.key)
	if !ok || row.Version != rev.version {
		return nil, &state.ConflictError{Key: rev.key, Want: rev.version}
	}
	return object.Decode[object.Revision](row)
}

// create drafts new Pods, placed already where they fit: that saves the way
// through the log that binding them later would take.
func (e *edit) create(rev *object.Revision) error {
	if e.deed.create == 0 {
		return nil
	}
	shape := shapeOf(&rev.Spec.Template.Spec)
	made := make([]*corev1.Pod, e.deed.create)
	asked := make([]place.Pod, len(made))
	for i := range made {
		made[i] = newPod(rev, e.Random(), e.UID(), e.now)
		asked[i] = place.Pod{Key: made[i].Namespace + "/" + made[i].Name, Owner: string(rev.UID), Shape: shape}
	}
	e.loads()
	refused := 0
	for i, c := range place.Choose(e.model.view, asked) {
		settle(made[i], c, e.now)
		if err := e.put(made[i], 0); err != nil {
			return err
		}
		if c.Refused != nil {
			refused++
			e.out.note(aboutObject(made[i]), corev1.EventTypeWarning, "FailedScheduling", "%s", c.Refused)
			continue
		}
		asked[i].Node = c.Node
		e.out.made = append(e.out.made, asked[i])
		e.out.note(aboutObject(made[i]), corev1.EventTypeNormal, "Scheduled", "placed on %s", c.Node)
	}
	e.out.note(e.out.about, corev1.EventTypeNormal, "ScaledUp", "made %d Pods of revision %d, so that there are %d",
		len(made), e.number, e.deed.create+len(e.cast.current)+len(e.cast.old)-len(e.deed.remove))
	return nil
}

func (e *edit) removeSome() error {
	why := map[string]int{}
	for _, gone := range e.deed.remove {
		op, err := stopPod(e.store, gone.pod, e.now)
		if err != nil {
			return err
		}
		if op != nil {
			e.out.ops = append(e.out.ops, op)
			why[gone.why]++
			e.out.note(aboutPod(gone.pod), corev1.EventTypeNormal, "Killing", "stopped, as %s", gone.why)
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(why)) {
		e.out.note(e.out.about, corev1.EventTypeNormal, "ScaledDown", "removed %d Pods, as %s", why[reason], reason)
	}
	return nil
}

// trim drafts the end of old Revisions without Pods beyond what history keeps.
func (e *edit) trim() {
	keep := 10
	if e.d.Spec.RevisionHistoryLimit != nil {
		keep = int(*e.d.Spec.RevisionHistoryLimit)
	}
	e.trimmed = map[string]bool{}
	var empty []*revision
	for _, rev := range e.revisions {
		if rev != e.current && len(e.model.byOwner[rev.uid]) == 0 {
			empty = append(empty, rev)
		}
	}
	for _, rev := range empty[:max(0, len(empty)-keep)] {
		e.out.ops = append(e.out.ops, object.Delete(rev.key, rev.version))
		e.trimmed[rev.uid] = true
	}
}

// finish drafts the status as it will be, or makes sure that the Deployment is
// still what the draft is based on.
func (e *edit) finish() error {
	again := e.status()
	if again > 0 && (e.out.again == 0 || again < e.out.again) {
		e.out.again = again
	}
	if err := e.revisionStatus(); err != nil {
		return err
	}
	op, err := object.Put(e.d, e.row.Version)
	if err != nil {
		return err
	}
	if string(op.GetPut().GetBody()) == string(e.row.Body) {
		if len(e.out.ops) == 0 {
			return nil
		}
		op = object.Check(e.row.Key, e.row.Version)
	}
	e.out.ops = append(e.out.ops, op)
	return nil
}

func (e *edit) put(obj object.Object, expect uint64) error {
	op, err := object.Put(obj, expect)
	if err != nil {
		return err
	}
	e.out.ops = append(e.out.ops, op)
	return nil
}
