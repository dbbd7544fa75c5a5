package object

// Exclusive tells whether the annotations are those of a Pod that must never
// run twice at a time.
func Exclusive(annotations map[string]string) bool { return annotations[AnnotationExclusive] == "true" }
