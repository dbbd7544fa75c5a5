package main

import (
	"strings"
	"testing"
)

func TestUnitNamesThisProgram(t *testing.T) {
	text := unitFor("/opt/skein/skeind")
	for _, want := range []string{
		"Type=notify", "KillMode=process", "Delegate=yes", "WatchdogSec=", "Restart=always",
		"ExecStart=/opt/skein/skeind run\n", "ExecReload=/opt/skein/skeind reload\n",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("the unit has no line %q", want)
		}
	}
	if strings.Contains(text, unitPath) {
		t.Errorf("the unit still names %s", unitPath)
	}
}

func TestReloadWhereNothingRuns(t *testing.T) {
	err := app().RunContext(t.Context(), []string{"skeind", "reload", "--data-dir", t.TempDir()})
	if err == nil || exit(err) != 2 {
		t.Errorf("reload = %v, want a usage error", err)
	}
}
