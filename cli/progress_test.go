package cli

import (
	"strings"
	"testing"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func TestProgressOffATerminalIsALinePerChange(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, false, nil)
	p.tell("deployment/web", "", "0 of 2 ready")
	p.tell("deployment/web", "", "0 of 2 ready")
	p.tell("deployment/web", "pod/web-1 is ready on n1", "1 of 2 ready")
	p.tell("deployment/web", "rolling out", "")
	p.done("deployment/web", "2 of 2 ready")
	want := "deployment/web: 0 of 2 ready\npod/web-1 is ready on n1\ndeployment/web: rolling out\ndeployment/web: 2 of 2 ready\n"
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}

// screen shows what is left of text on a terminal that knows \r, \n and "erase
// the line".
func screen(text string) string {
	var lines []string
	line := ""
	for text != "" {
		switch {
		case strings.HasPrefix(text, "\x1b[1A"):
			line, lines, text = lines[len(lines)-1], lines[:len(lines)-1], text[len("\x1b[1A"):]
		case strings.HasPrefix(text, "\r\x1b[2K"):
			line, text = "", text[len("\r\x1b[2K"):]
		case text[0] == '\n':
			lines, line, text = append(lines, line), "", text[1:]
		default:
			line, text = line+text[:1], text[1:]
		}
	}
	return strings.Join(append(lines, line), "\n")
}

func TestProgressOnATerminalIsOneLineBelowThoseThatStay(t *testing.T) {
	var b strings.Builder
	p := newProgress(&b, true, func() int { return 40 })
	p.tell("deployment/web", "", "0 of 2 ready")
	p.tell("deployment/api", "", "0 of 1 ready")
	if want := "deployment/web 0 of 2 ready · deployme…"; screen(b.String()) != want {
		t.Errorf("screen %q, want %q", screen(b.String()), want)
	}
	p.tell("deployment/web", "pod/web-1 is ready on n1", "1 of 2 ready")
	p.done("deployment/api", "1 of 1 ready")
	want := "pod/web-1 is ready on n1\ndeployment/api: 1 of 1 ready\ndeployment/web 1 of 2 ready"
	if screen(b.String()) != want {
		t.Errorf("screen:\n%s\nwant:\n%s", screen(b.String()), want)
	}
	p.done("deployment/web", "2 of 2 ready")
	if want := "pod/web-1 is ready on n1\ndeployment/api: 1 of 1 ready\ndeployment/web: 2 of 2 ready\n"; screen(b.String()) != want {
		t.Errorf("screen:\n%s\nwant:\n%s", screen(b.String()), want)
	}
}

func TestImagesOnTheirWayAreLinesOfTheirOwn(t *testing.T) {
	slow := &skeinv1.ImagePull{
		Node: "n2", Image: "nginx:1.27", Layers: 7, LayersDone: 3, Bytes: 67_300_000, BytesDone: 41_200_000,
		Fetched: 36_200_000, ElapsedMs: 2000, From: []string{"n1"},
	}
	begun := &skeinv1.ImagePull{Node: "n1", Image: "busybox"}
	come := &skeinv1.ImagePull{
		Node: "n2", Image: "nginx:1.27", Layers: 7, LayersDone: 7, Bytes: 67_300_000, BytesDone: 67_300_000,
		Fetched: 62_300_000, ElapsedMs: 3210, From: []string{"n1", "registry.example"}, Done: true,
	}
	failed := &skeinv1.ImagePull{Node: "n1", Image: "busybox", Done: true, Error: "no such image"}

	var b strings.Builder
	p := newProgress(&b, true, func() int { return 100 })
	p.tell("deployment/web", "", "0 of 2 ready")
	p.pulling("deployment/web", []*skeinv1.ImagePull{begun, slow})
	p.pulling("deployment/web", []*skeinv1.ImagePull{begun, slow})
	want := "n1  pulling busybox\nn2  pulling nginx:1.27  3/7 layers  41.2 of 67.3 MB  18.1 MB/s  from n1\ndeployment/web 0 of 2 ready"
	if screen(b.String()) != want {
		t.Errorf("screen:\n%s\nwant:\n%s", screen(b.String()), want)
	}
	p.pulling("deployment/web", []*skeinv1.ImagePull{failed, come})
	p.done("deployment/web", "2 of 2 ready")
	want = "n2 has nginx:1.27 after 3.2s: 62.3 MB from n1, registry.example\ndeployment/web: 2 of 2 ready\n"
	if screen(b.String()) != want {
		t.Errorf("screen:\n%s\nwant:\n%s", screen(b.String()), want)
	}

	b.Reset()
	p = newProgress(&b, false, nil)
	p.pulling("deployment/web", []*skeinv1.ImagePull{begun, slow})
	p.pulling("deployment/web", []*skeinv1.ImagePull{begun, slow})
	p.pulling("deployment/web", []*skeinv1.ImagePull{failed, come})
	p.pulling("deployment/web", []*skeinv1.ImagePull{come})
	want = "n1 pulls busybox\nn2 pulls nginx:1.27\nn2 has nginx:1.27 after 3.2s: 62.3 MB from n1, registry.example\n"
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}
