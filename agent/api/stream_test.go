package api

import (
	"bytes"
	"errors"
	"testing"
)

func TestAProgramThatCannotStartIsToldAsShellsDo(t *testing.T) {
	for text, want := range map[string]refusal{
		`runc: exec failed: unable to start container process: exec: "nope": executable file not found in $PATH`: {exit: 127, text: `cannot start the program: "nope": executable file not found in $PATH`},
		`runc: exec failed: unable to start container process: exec: "/x": permission denied`:                    {exit: 126, text: `cannot start the program: "/x": permission denied`},
		`the container has ended`: {exit: exitFailed, text: `exec: the container has ended`},
	} {
		var got *refusal
		if err := cannotExec(errors.New(text)); !errors.As(err, &got) || got.exit != want.exit || got.text != want.text {
			t.Errorf("%s:\n got %v, exit code %d\nwant %s, exit code %d", text, got, got.exit, want.text, want.exit)
		}
	}
}

func TestWhatTheRuntimeSaysIsHeldBackAndNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		writes        []string
		before, after string
	}{
		"the program's own":             {[]string{"a\n", startFailed + "b"}, "a\n" + startFailed + "b", "a\n" + startFailed + "b"},
		"the runtime's":                 {[]string{startFailed + "x"}, "", startFailed + "x"},
		"a program that begins like it": {[]string{startFailed + "x", "y"}, startFailed + "xy", startFailed + "xy"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			h := &holdback{to: &out}
			for _, w := range c.writes {
				if n, err := h.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatal(n, err)
				}
			}
			if out.String() != c.before {
				t.Errorf("%q came through, want %q", &out, c.before)
			}
			if h.release(); out.String() != c.after {
				t.Errorf("%q came through in the end, want %q", &out, c.after)
			}
		})
	}
}
