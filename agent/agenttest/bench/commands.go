package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// commands times what a person types.
func commands(ctx context.Context, b *bench) error {
	up := figure{name: "three-node lab up to its first Pod ready", unit: "s", goal: "5 s"}
	for range b.runs {
		began := time.Now()
		err := b.with(ctx, 3, func(l *lab) error {
			_, err := l.skein("run", "first", "--image", "skein/demo:v1", "--port", "8080")
			up.values = append(up.values, seconds(time.Since(began)))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.tell(up)
	return b.with(ctx, 3, func(l *lab) error {
		run := figure{name: "skein run to a ready Pod, the command included", unit: "ms", goal: "p50 150 ms"}
		get := figure{name: "skein get pods", unit: "ms", goal: "50 ms"}
		for i := range b.runs {
			name := fmt.Sprint("r", i)
			took, err := spent(func() error { _, err := l.skein("run", name, "--image", "skein/demo:v1", "--port", "8080"); return err })
			if err != nil {
				return err
			}
			run.values = append(run.values, millis(took))
			took, err = spent(func() error { _, err := l.skein("get", "pods"); return err })
			if err != nil {
				return err
			}
			get.values = append(get.values, millis(took))
		}
		b.tell(run)
		b.tell(get)
		return b.restarts(l)
	})
}

// restarts kills agents and looks for containers that were started again.
func (b *bench) restarts(l *lab) error {
	f := figure{name: "containers started again when an agent is killed and back", unit: "", goal: "0"}
	before, err := l.skein("get", "pods", "-o", "json")
	if err != nil {
		return err
	}
	for range min(b.runs, 5) {
		for _, node := range []string{"n1", "n2", "n3"} {
			if err := l.lab("stop", node); err != nil {
				return err
			}
			if err := l.lab("start", node); err != nil {
				return err
			}
			if err := l.whole(3); err != nil {
				return err
			}
		}
		after, err := l.skein("get", "pods", "-o", "json")
		if err != nil {
			return err
		}
		f.values = append(f.values, float64(different(containerIDs(before), containerIDs(after))))
	}
	b.tell(f)
	info, err := os.Stat("bin/skeind")
	if err != nil {
		return err
	}
	b.tell(figure{name: "skeind: one file", unit: "MB", goal: "50 MB", values: []float64{float64(info.Size()) / 1e6}})
	return nil
}

// settle is how long a cluster is left alone before it counts as idle.
const settle = 2 * time.Minute
