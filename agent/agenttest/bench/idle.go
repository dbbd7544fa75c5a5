package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// idle lets three nodes with ten Pods each do nothing, and weighs them.
func idle(ctx context.Context, b *bench) error {
	return b.with(ctx, 3, func(l *lab) error {
		if _, err := l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", "30", "--port", "8080", "--timeout", "1m"); err != nil {
			return err
		}
		if err := l.whole(3); err != nil {
			return err
		}
		if !rest(ctx, settle) {
			return ctx.Err()
		}
		all, err := l.nodes()
		if err != nil {
			return err
		}
		return b.weigh(ctx, l, all.leader)
	})
}

func rest(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// weigh samples every agent, so many times.
func (b *bench) weigh(ctx context.Context, l *lab, leader string) error {
	const window = 5 * time.Second
	pids, err := l.agents()
	if err != nil {
		return err
	}
	lead := figure{name: "agent, idle, 10 Pods a node: CPU, the leader", unit: "%", goal: "1.5 % of a core"}
	follow := figure{name: "agent, idle, 10 Pods a node: CPU, the others", unit: "%", goal: "0.5 % of a core"}
	pss := figure{name: "agent, idle, 10 Pods a node: memory, PSS", unit: "MB", goal: "40 MB"}
	anon := figure{name: "agent, idle, 10 Pods a node: memory, anonymous", unit: "MB", goal: "25 MB"}
	for range b.runs {
		before := map[string]time.Duration{}
		for node, pid := range pids {
			if before[node], err = cpuTime(pid); err != nil {
				return err
			}
		}
		began := time.Now()
		if !rest(ctx, window) {
			return ctx.Err()
		}
		for node, pid := range pids {
			now, err := cpuTime(pid)
			if err != nil {
				return err
			}
			share := 100 * (now - before[node]).Seconds() / time.Since(began).Seconds()
			if node == leader {
				lead.values = append(lead.values, share)
			} else {
				follow.values = append(follow.values, share)
			}
			m, err := memory(pid)
			if err != nil {
				return err
			}
			pss.values, anon.values = append(pss.values, m["Pss"]), append(anon.values, m["Anonymous"])
		}
	}
	for _, f := range []figure{lead, follow, pss, anon} {
		b.tell(f)
	}
	return nil
}

// cpuTime is what a process has used, by all its threads, to the nanosecond:
// the ticks of /proc/PID/stat would be too coarse for one that does nothing.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, t := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name()))
		if err != nil {
			continue // a thread that has just ended
		}
		on, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseInt(on, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// memory reads what a process weighs, in MB.
func memory(pid int) (map[string]float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) != 2 {
			continue
		}
		kb, err := strconv.ParseFloat(fields[0], 64)
		if err == nil {
			out[name] = kb * 1024 / 1e6
		}
	}
	return out, nil
}

// containerIDs lists the containers of a list of Pods.
func containerIDs(list string) []string {
	var pods struct {
		Items []struct {
			Status struct {
				ContainerStatuses []struct{ ContainerID string }
			}
		}
	}
	if json.Unmarshal([]byte(list), &pods) != nil {
		return nil
	}
	var ids []string
	for _, p := range pods.Items {
		for _, c := range p.Status.ContainerStatuses {
			ids = append(ids, c.ContainerID)
		}
	}
	return ids
}

// different counts what is in the one and not in the other.
func different(before, after []string) int {
	n := 0
	for _, id := range before {
		if !slices.Contains(after, id) {
			n++
		}
	}
	return n
}
