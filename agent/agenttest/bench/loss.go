package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// replicas of the Deployment that loses machines.
const replicas = 6

// power cuts the power of the machine that carries most and does not lead, and
// then that of the one that leads, and times until all Pods are ready elsewhere, as
// a person sees it. Each time it is another lab: a machine that was lost before is
// trusted with less for a while.
func power(ctx context.Context, b *bench) error {
	err := b.losses(ctx, figure{
		name: "a machine loses power: its Pods are ready elsewhere", unit: "s", goal: "p50 1.5 s, 3 s",
	}, func(l *lab, leader string) (string, error) { return l.fullest(leader) })
	if err != nil {
		return err
	}
	return b.losses(ctx, figure{
		name: "the leader's machine loses power: its Pods are ready elsewhere", unit: "s", goal: "3 s",
	}, func(_ *lab, leader string) (string, error) { return leader, nil })
}

func (b *bench) losses(ctx context.Context, f figure, pick func(l *lab, leader string) (string, error)) error {
	for range b.runs {
		err := b.with(ctx, 3, func(l *lab) error {
			if _, err := l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", fmt.Sprint(replicas), "--port", "8080"); err != nil {
				return err
			}
			if err := l.whole(3); err != nil {
				return err
			}
			all, err := l.nodes()
			if err != nil {
				return err
			}
			victim, err := pick(l, all.leader)
			if err != nil {
				return err
			}
			took, err := l.lose(victim)
			f.values = append(f.values, seconds(took))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.tell(f)
	return nil
}

// fullest names the node with most Pods, but for one.
func (l *lab) fullest(but string) (string, error) {
	pods, err := l.ready()
	if err != nil {
		return "", err
	}
	count := map[string]int{}
	most := ""
	for _, p := range pods {
		if count[p.node]++; p.node != but && (most == "" || count[p.node] > count[most]) {
			most = p.node
		}
	}
	if most == "" {
		return "", fmt.Errorf("no node but %s carries anything", but)
	}
	return most, nil
}

// lose cuts a machine's power and waits until every Pod is ready on another.
func (l *lab) lose(victim string) (time.Duration, error) {
	began := time.Now()
	killed := make(chan error, 1)
	go func() { killed <- l.lab("kill", victim) }()
	err := l.until("wait for the Pods of "+victim, 30*time.Second, func() (bool, error) {
		pods, err := l.ready()
		n := 0
		for _, p := range pods {
			if p.node != victim {
				n++
			}
		}
		return n == replicas, err
	})
	took := time.Since(began)
	if kill := <-killed; kill != nil {
		return 0, kill
	}
	return took, err
}

// mend brings a machine back.
func (l *lab) mend(victim string) error {
	if err := l.lab("heal"); err != nil {
		return err
	}
	return l.lab("start", victim)
}

// leaderLoss cuts the power of the machine that leads, again and again, while
// somebody writes without pause, and looks for every write that was acknowledged.
func leaderLoss(ctx context.Context, b *bench) error {
	return b.with(ctx, 3, func(l *lab) error {
		if _, err := l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", fmt.Sprint(replicas), "--port", "8080"); err != nil {
			return err
		}
		writes := figure{name: "the leader is lost: the next write is accepted", unit: "s", goal: "p99 1.5 s"}
		var acked []string
		for range b.runs {
			if err := l.whole(3); err != nil {
				return err
			}
			all, err := l.nodes()
			if err != nil {
				return err
			}
			w := l.write(len(acked))
			began := time.Now()
			_, err = l.lose(all.leader)
			gap, names := w.end(began)
			if err != nil {
				return err
			}
			acked = append(acked, names...)
			writes.values = append(writes.values, seconds(gap))
			if err := l.mend(all.leader); err != nil {
				return err
			}
		}
		lost, err := l.missing(acked)
		if err != nil {
			return err
		}
		writes.beside = fmt.Sprintf("%d of %d acknowledged writes lost", lost, len(acked))
		b.tell(writes)
		return nil
	})
}

// A writer makes Namespaces without pause.
type writer struct {
	stop chan struct{}
	done sync.WaitGroup

	names []string    // that were acknowledged
	times []time.Time // when
}

func (l *lab) write(first int) *writer {
	w := &writer{stop: make(chan struct{})}
	w.done.Go(func() {
		for i := first; ; i++ {
			select {
			case <-w.stop:
				return
			default:
			}
			name := fmt.Sprintf("w-%06d", i)
			manifest := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
			if _, err := l.command(manifest, "skein", "apply", "-f", "-"); err == nil {
				w.names, w.times = append(w.names, name), append(w.times, time.Now())
			}
		}
	})
	return w
}

// end stops the writer and returns the longest time for which it heard of no
// success after a moment, and what succeeded.
func (w *writer) end(after time.Time) (gap time.Duration, names []string) {
	time.Sleep(500 * time.Millisecond) // the next write, whatever the Pods did
	close(w.stop)
	w.done.Wait()
	last := after
	for _, t := range w.times {
		if t.After(after) {
			gap, last = max(gap, t.Sub(last)), t
		}
	}
	return gap, w.names
}

// missing counts the Namespaces that are not there.
func (l *lab) missing(names []string) (int, error) {
	out, err := l.skein("get", "namespaces", "-o", "name")
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	for _, line := range strings.Fields(out) {
		there[line[strings.LastIndex(line, "/")+1:]] = true
	}
	n := 0
	for _, name := range names {
		if !there[name] {
			n++
		}
	}
	return n, nil
}

// busy lets four programs spin on every core while ten nodes do nothing, and
// counts what is moved. Nothing should be.
func busy(ctx context.Context, b *bench) error {
	return b.with(ctx, 10, func(l *lab) error {
		if _, err := l.skein("run", "web", "--image", "skein/demo:v1", "--replicas", "20", "--port", "8080", "--timeout", "2m"); err != nil {
			return err
		}
		if err := l.whole(10); err != nil {
			return err
		}
		before, err := l.ready()
		if err != nil {
			return err
		}
		spin(ctx, 4, time.Minute)
		after, err := l.ready()
		if err != nil {
			return err
		}
		same := map[pod]bool{}
		for _, p := range before {
			same[p] = true
		}
		for _, p := range after {
			delete(same, p)
		}
		b.tell(figure{
			name: "Pods moved: 10 nodes, 4 spinners on all cores for 60 s", unit: "Pods", goal: "0",
			values: []float64{float64(len(same))},
		})
		return nil
	})
}

// spin keeps so many threads busy for a time.
func spin(ctx context.Context, n int, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for x := uint64(1); ctx.Err() == nil; {
				for range 1 << 20 {
					x ^= x << 13
				}
			}
		})
	}
	all.Wait()
}
