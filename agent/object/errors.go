package object

import (
	"fmt"
	"strconv"
	"strings"
)

// maxTold bounds the faults that one answer tells.
const maxTold = 10

// A ManifestError is what is wrong with an object as a person wrote it. Its
// text begins with the first fault; a line follows for each of the others.
type ManifestError struct {
	File   string // empty when there is none: the object came by a patch
	Line   int    // 0 when there is none
	Object string // `deployment "web"`, empty before it is known
	Path   string // "spec.template.spec.containers[0].image", empty for the whole
	Msg    string
	Hint   string
	More   []*ManifestError // up to nine others
	Unsaid int              // how many there are beyond those
}

// Error tells all that is wrong, in the order of the lines.
func (e *ManifestError) Error() string {
	var b strings.Builder
	b.WriteString(e.first())
	for _, m := range e.More {
		b.WriteString("\n" + m.first())
		if m.Hint != "" && m.Hint != e.Hint {
			b.WriteString(" (" + m.Hint + ")")
		}
	}
	if e.Unsaid > 0 {
		fmt.Fprintf(&b, "\nand %d more", e.Unsaid)
	}
	return b.String()
}

func (e *ManifestError) first() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			b.WriteString(":" + strconv.Itoa(e.Line))
		}
		b.WriteString(": ")
	}
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Msg)
	return b.String()
}

// join makes one error of many, nil of none.
func join(all []*ManifestError) error {
	if len(all) == 0 {
		return nil
	}
	first := *all[0]
	rest := all[1:]
	if len(rest) > maxTold-1 {
		first.Unsaid = len(rest) - (maxTold - 1)
		rest = rest[:maxTold-1]
	}
	first.More = rest
	return &first
}

// A problem is one fault of an object, before it is known where it was written.
type problem struct{ path, msg, hint string }

// problems collects the faults of one object.
type problems struct{ list []problem }

func (p *problems) add(path, format string, args ...any) {
	p.list = append(p.list, problem{path: path, msg: fmt.Sprintf(format, args...)})
}

func (p *problems) hint(path, hint, format string, args ...any) {
	p.list = append(p.list, problem{path: path, hint: hint, msg: fmt.Sprintf(format, args...)})
}

// each adds one fault for each message that Kubernetes' own checks return.
func (p *problems) each(path, value string, messages []string) {
	for _, m := range messages {
		m, _, _ = strings.Cut(m, " (e.g. ") // the examples and expressions that follow fill a screen
		p.add(path, "%s: %s", strconv.Quote(clip(value)), m)
	}
}

// keyed returns the path of a key in a map.
func keyed(path, key string) string {
	if key != "" && strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" {
		return path + "." + key
	}
	return path + "[" + strconv.Quote(clip(key)) + "]"
}

func indexed(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
