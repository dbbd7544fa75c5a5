package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADataDirectoryOfANewerFormatIsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"3\n":    "has format 3, and this build reads up to 2",
		"9999":   "has format 9999",
		"0":      "no format",
		"":       "no format",
		"newest": "no format",
		"-1":     "no format",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, formatFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := Config{Name: "n1", DataDir: dir, Init: true, Logger: slog.New(slog.DiscardHandler)}
		for how, do := range map[string]func() error{
			"checking": func() error { return Check(cfg) },
			"starting": func() error { return Run(t.Context(), cfg) },
		} {
			err := do()
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s with %q: %v, want one line with %q", how, text, err, want)
			}
			if usage := (*UsageError)(nil); strings.HasPrefix(want, "has") && !errors.As(err, &usage) {
				t.Errorf("%s with %q: %T, want a UsageError, after which no keeper starts it again", how, text, err)
			}
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 {
			t.Errorf("with %q there is %v afterwards, %v", text, left, err)
		}
	}
}
