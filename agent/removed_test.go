package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/skein-dev/skein/runtime/container"
	"github.com/skein-dev/skein/runtime/container/containertest"
)

// idle is a driver that notices nothing, until its context ends.
type idle struct{ *containertest.Driver }

func (idle) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func TestANodeThatWasRemovedEndsWhatItRanAndStartsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, removedFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	driver := containertest.New(containertest.RunForever)
	id := container.ID{Pod: "u1", Name: "c"}
	if err := errors.Join(
		driver.Prepare(t.Context(), container.Sandbox{Pod: "u1"}),
		driver.Start(t.Context(), container.Spec{ID: id, Sandbox: container.Sandbox{Pod: "u1"}}),
	); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start finds nothing, and is as good
		err := Run(t.Context(), Config{
			Name: "n1", DataDir: dir, Logger: slog.New(slog.DiscardHandler),
			World: World{Driver: func(Config) (Driver, error) { return idle{driver}, nil }},
		})
		var removed *RemovedError
		if !errors.As(err, &removed) || removed.Node != "n1" {
			t.Errorf("it ended with %v, want a RemovedError of n1", err)
		}
	}
	list, err := driver.List(t.Context())
	if err != nil || len(list) > 0 {
		t.Errorf("%v are left, %v", list, err)
	}
	sandboxes, err := driver.Sandboxes(t.Context())
	if err != nil || len(sandboxes) > 0 {
		t.Errorf("sandboxes %v are left, %v", sandboxes, err)
	}
}
