package containertest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skein-dev/skein/runtime/container"
)

func TestDriverPassesTheSuite(t *testing.T) {
	Suite(t, func(*testing.T) Stage {
		return Stage{Driver: New(Words), RootFS: func(container.ID) []container.Mount { return nil }, Program: "/prog"}
	})
}

func TestTimeIsVirtual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := New(func(spec container.Spec) Process {
			switch spec.ID.Name {
			case "slow":
				return Process{StartTime: 10 * time.Second, Runs: Forever, TermTime: 20 * time.Second, TermCode: 143}
			default:
				return Process{Runs: time.Hour, Code: 3, OOMKilled: true}
			}
		})
		ctx, begin := t.Context(), time.Now()
		if err := d.Prepare(ctx, container.Sandbox{Pod: "p"}); err != nil {
			t.Fatal(err)
		}
		slow, hour := container.ID{Pod: "p", Name: "slow"}, container.ID{Pod: "p", Name: "hour"}
		for _, id := range []container.ID{hour, slow} {
			if err := d.Start(ctx, container.Spec{ID: id}); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("started after %v", took)
		}
		if err := d.Stop(ctx, slow, time.Minute); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 30*time.Second {
			t.Errorf("stopped after %v", took)
		}
		<-d.Changed()
		if took := time.Since(begin); took != time.Hour {
			t.Errorf("ended by itself after %v", took)
		}
		list, err := d.List(ctx)
		if err != nil || len(list) != 2 || list[0].ExitCode != 3 || !list[0].OOMKilled || list[1].ExitCode != 143 || list[1].Signal != 15 {
			t.Errorf("%+v, %v", list, err)
		}
	})
}

func TestDoingsFromOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ctx := New(RunForever), t.Context()
		a, b := container.ID{Pod: "p", Name: "a"}, container.ID{Pod: "p", Name: "b"}
		if err := errors.Join(d.Prepare(ctx, container.Sandbox{Pod: "p"}), d.Start(ctx, container.Spec{ID: a}), d.Start(ctx, container.Spec{ID: b})); err != nil {
			t.Fatal(err)
		}
		if !d.Exit(a, 1) || d.Exit(a, 1) || d.Exit(container.ID{}, 1) {
			t.Error("a program ends once")
		}
		d.Reboot()
		list, err := d.List(ctx)
		if err != nil || len(list) != 2 || list[0].ExitCode != 1 || list[1].ExitCode != -1 {
			t.Errorf("%+v, %v", list, err)
		}
		if d.Starts(a) != 1 {
			t.Errorf("started %d times", d.Starts(a))
		}
	})
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	want := errors.New("no such file")
	d, ctx := New(func(container.Spec) Process { return Process{Err: want} }), context.Background()
	id := container.ID{Pod: "p", Name: "a"}
	if err := d.Prepare(ctx, container.Sandbox{Pod: "p"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(ctx, container.Spec{ID: id}); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if list, err := d.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
}
