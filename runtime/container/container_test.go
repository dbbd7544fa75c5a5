package container

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestClip(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "",
		" \n":                  "",
		"bye\n":                "bye",
		"a\xffb":               "a?b",
		"\x00\x00bye\x00\n":    "bye",
		"12345678901":          "2345678901",
		"12345678é9":           "2345678é9",
		"é23456789":            "é23456789",
		"é2345678901":          "2345678901",
		"two\nlines":           "two\nlines",
		"\x00\x00\x00\x00\x00": "",
	} {
		got := Clip([]byte(text), 10)
		if got != want {
			t.Errorf("Clip(%q) = %q, want %q", text, got, want)
		}
	}
	// A cut inside a letter, and much of it.
	if got := Clip([]byte(strings.Repeat("é", 9000)), 4095); !utf8.ValidString(got) || len(got) > 4095 {
		t.Errorf("%d bytes, valid %v", len(got), utf8.ValidString(got))
	}
}
