package cli

import (
	"strings"
	"testing"
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
