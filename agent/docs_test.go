package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// named is how a page names a test: `folder:TestName`, the folder from the top.
var named = regexp.MustCompile("`([a-z0-9_/]+):((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)`")

// tests are the functions of a folder's test files, whatever tags they are built for.
func tests(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)\(`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range declared.FindAllSubmatch(text, -1) {
			out = append(out, string(m[1]))
		}
	}
	return out
}

func TestPagesNameTestsThatExist(t *testing.T) {
	for page, least := range map[string]int{"security.md": 50, "guarantees.md": 1} {
		text, err := os.ReadFile(filepath.Join("../docs", page))
		if errors.Is(err, fs.ErrNotExist) && page == "guarantees.md" {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		found := named.FindAllSubmatch(text, -1)
		if len(found) < least {
			t.Errorf("docs/%s names %d tests, want at least %d: has their form changed?", page, len(found), least)
		}
		for _, m := range found {
			if folder, test := string(m[1]), string(m[2]); !slices.Contains(tests(t, folder), test) {
				t.Errorf("docs/%s names %s in %s, which is not there", page, test, folder)
			}
		}
	}
}
