package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What the chapter logs follows.
const (
	writers  = 50
	lineRate = 1000 // a second, of each
	lineTime = 20 * time.Second
)

// logs follows many Pods that write all the time, and counts what is missing by
// the numbers of their lines.
func logs(ctx context.Context, b *bench) error {
	lost := figure{name: fmt.Sprintf("logs -f of %d Pods at %d lines/s each: lines lost or twice", writers, lineRate), goal: "0"}
	late := figure{name: "the same: until the last line after it was written", unit: "s"}
	for range min(b.runs, 3) {
		err := b.with(ctx, 3, func(l *lab) error {
			bad, behind, err := l.followAll()
			lost.values = append(lost.values, float64(bad))
			late.values = append(late.values, seconds(behind))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.tell(lost)
	b.tell(late)
	return nil
}

// followAll tells how many lines were wrong, and how long after the writers
// should have ended the last one came.
func (l *lab) followAll() (bad int, behind time.Duration, err error) {
	lines := int(lineTime.Seconds()) * lineRate
	var manifest strings.Builder
	for i := range writers {
		fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: Pod
metadata: {name: count-%d, labels: {app: count}}
spec:
  restartPolicy: Never
  containers:
  - {name: c, image: "skein/demo:v1", args: [count, "%d", "%d"]}
`, i, lines, lineRate)
	}
	if _, err := l.command(manifest.String(), "skein", "apply", "-f", "-", "--timeout", "1m"); err != nil {
		return 0, 0, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(l.ctx, 4*lineTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join("bin", "skein"), "logs", "-f", "-l", "app=count", "--prefix")
	cmd.Env, cmd.Stderr = l.env, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	next, odd := map[string]int{}, 0
	for in := bufio.NewScanner(out); in.Scan(); {
		pod, text, _ := strings.Cut(in.Text(), " | line ")
		n, err := strconv.Atoi(text)
		if err != nil || n != next[pod]+1 {
			odd++
		}
		next[pod] = max(next[pod], n)
	}
	if err := cmd.Wait(); err != nil {
		return 0, 0, errors.Join(fmt.Errorf("logs -f: %w", err), ctx.Err())
	}
	behind = time.Since(began) - lineTime
	for i := range writers {
		bad += lines - next[fmt.Sprintf("count-%d", i)]
	}
	return bad + odd, behind, nil
}

// execs times a program that does nothing, by the command that a person types,
// on the node that is asked and on another.
func execs(ctx context.Context, b *bench) error {
	return b.with(ctx, 3, func(l *lab) error {
		if _, err := l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", "3", "--port", "8080", "--timeout", "1m"); err != nil {
			return err
		}
		pods, err := l.ready()
		if err != nil {
			return err
		}
		all, err := l.nodes()
		if err != nil {
			return err
		}
		near := figure{name: "skein exec true, the command included: on the leader", unit: "ms", goal: "p50 60 ms"}
		far := figure{name: "the same: on another node", unit: "ms", goal: "p50 60 ms"}
		for range b.runs {
			for _, p := range pods {
				took, err := spent(func() error {
					_, err := l.skein("exec", p.name, "--", "/bin/demo", "exit")
					return err
				})
				if err != nil {
					return err
				}
				if p.node == all.leader {
					near.values = append(near.values, millis(took))
				} else {
					far.values = append(far.values, millis(took))
				}
			}
		}
		b.tell(near)
		b.tell(far)
		return nil
	})
}

// top asks once a second what many containers use, and weighs what that costs
// the agent that looks.
func top(ctx context.Context, b *bench) error {
	const containers, window = 200, 10 * time.Second
	return b.with(ctx, 1, func(l *lab) error {
		if _, err := l.skein("run", "many", "--image", "skein/demo:v1", "--replicas", fmt.Sprint(containers), "--timeout", "4m", "--", "sleep"); err != nil {
			return err
		}
		if !rest(ctx, settle) {
			return ctx.Err()
		}
		pids, err := l.agents()
		if err != nil {
			return err
		}
		var pid int
		for _, p := range pids {
			pid = p
		}
		cost := func(ask bool) (float64, error) {
			before, err := cpuTime(pid)
			if err != nil {
				return 0, err
			}
			began := time.Now()
			for time.Since(began) < window {
				if ask {
					if _, err := l.skein("top", "pods"); err != nil {
						return 0, err
					}
				}
				if !rest(ctx, time.Second) {
					return 0, ctx.Err()
				}
			}
			after, err := cpuTime(pid)
			return 100 * float64(after-before) / float64(time.Since(began)), err
		}
		f := figure{name: "200 containers sampled, and told to a person, every second", unit: "%", goal: "1 % of a core"}
		for range min(b.runs, 5) {
			without, err := cost(false)
			if err != nil {
				return err
			}
			with, err := cost(true)
			if err != nil {
				return err
			}
			f.values = append(f.values, with-without)
		}
		b.tell(f)
		return nil
	})
}
