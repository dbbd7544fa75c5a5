package object

// Values of [AnnotationWhenIsolated].
const (
	IsolatedKeep = "keep" // it runs on: what is meant where nothing is said
	IsolatedStop = "stop" // it ends
)

// Exclusive tells whether the annotations are those of a Pod that must never
// run twice at a time.
func Exclusive(annotations map[string]string) bool { return annotations[AnnotationExclusive] == "true" }

// Leased tells whether the annotations are those of a Pod that runs only while
// its node reaches a leader with a quorum: an exclusive one, or one that is to
// stop where it is isolated.
func Leased(annotations map[string]string) bool {
	return Exclusive(annotations) || annotations[AnnotationWhenIsolated] == IsolatedStop
}
