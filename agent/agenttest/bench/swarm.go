package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// joinPatience is how long the simulated agents may take to join.
const joinPatience = 2 * time.Minute

// swarmState is what package main of the swarm prints.
type swarmState struct {
	Joined, Following, Reported, Pods, Running int
}

// swarm lets simulated agents join three real ones, and weighs the
// leader when nothing happens any more.
func swarm(ctx context.Context, b *bench) error {
	program := filepath.Join(b.dir, "swarm")
	//nolint:gosec // our own
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./agent/agenttest/swarm").CombinedOutput(); err != nil {
		return fmt.Errorf("build the swarm: %w\n%s", err, out)
	}
	return b.with(ctx, 3, func(l *lab) error {
		if err := l.whole(3); err != nil {
			return err
		}
		leave, err := l.meadow()
		defer leave()
		if err != nil {
			return err
		}
		token, err := l.skein("token", "create")
		if err != nil {
			return err
		}
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		s, err := b.release(ctx, program, tokenIn(token))
		if err != nil {
			return err
		}
		defer s.wait()
		defer stop()
		began := time.Now()
		for s.whole() < b.machines && time.Since(began) < joinPatience {
			if !rest(ctx, 20*time.Millisecond) {
				return ctx.Err()
			}
		}
		there := s.whole()
		b.tell(figure{name: fmt.Sprintf("%d simulated agents join, follow and have reported", there), unit: "s", goal: "20 s, of 1,000", values: []float64{seconds(time.Since(began))}})
		if there < b.machines {
			s.pause() // as many as there are, and nobody who goes on knocking
		}
		if !rest(ctx, 30*time.Second) {
			return ctx.Err()
		}
		return b.weighLeader(ctx, l, there)
	})
}

// weighLeader samples the leader of so many idle nodes.
func (b *bench) weighLeader(ctx context.Context, l *lab, there int) error {
	nodes, err := l.nodes()
	if err != nil {
		return err
	}
	pids, err := l.agents()
	if err != nil {
		return err
	}
	who := fmt.Sprintf("the leader of %d idle agents: ", there)
	cpu := figure{name: who + "CPU", unit: "%", goal: "5 % of a core, of 1,000"}
	mem := figure{name: who + "memory, PSS", unit: "MB", goal: "150 MB, of 1,000"}
	pid := pids[nodes.leader]
	for range b.runs {
		before, err := cpuTime(pid)
		if err != nil {
			return err
		}
		began := time.Now()
		if !rest(ctx, 3*time.Second) {
			return ctx.Err()
		}
		after, err := cpuTime(pid)
		if err != nil {
			return err
		}
		m, err := memory(pid)
		if err != nil {
			return err
		}
		cpu.values = append(cpu.values, 100*(after-before).Seconds()/time.Since(began).Seconds())
		mem.values = append(mem.values, m["Pss"])
	}
	b.tell(cpu)
	b.tell(mem)
	return nil
}

// tokenIn finds the token in what "skein token create" prints.
func tokenIn(text string) string {
	for _, word := range strings.Fields(text) {
		if strings.HasPrefix(word, "skein1-") {
			return word
		}
	}
	return ""
}

const (
	meadowName = "skein-" + labName + "-swarm"
	switchName = "skein-" + labName + "-switch"
	meadowAddr = "10.213.0.200"
)

// meadow makes a network namespace in which every address of 10.214.0.0/16 is
// local, and plugs it into the lab's switch.
func (l *lab) meadow() (leave func(), err error) {
	ip := func(args ...string) error {
		out, err := exec.CommandContext(context.WithoutCancel(l.ctx), "ip", args...).CombinedOutput() //nolint:gosec // our own
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	}
	leave = func() {
		if err := ip("netns", "del", meadowName); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
	steps := [][]string{
		{"netns", "add", meadowName},
		{"link", "add", "sw0", "netns", switchName, "type", "veth", "peer", "name", "eth0", "netns", meadowName},
		{"-n", switchName, "link", "set", "sw0", "master", "br0", "up"},
		{"-n", meadowName, "link", "set", "lo", "up"},
		{"-n", meadowName, "link", "set", "eth0", "up"},
		{"-n", meadowName, "addr", "add", meadowAddr + "/24", "dev", "eth0"},
		{"-n", meadowName, "route", "add", "local", "10.214.0.0/16", "dev", "lo"},
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		steps = append(steps, []string{"-n", "skein-" + labName + "-" + node, "route", "add", "10.214.0.0/16", "via", meadowAddr})
	}
	for _, args := range steps {
		if err := ip(args...); err != nil {
			return leave, err
		}
	}
	return leave, nil
}

// A released swarm tells how far it is.
type released struct {
	cmd  *exec.Cmd
	done sync.WaitGroup
	mu   sync.Mutex
	last swarmState
}

func (b *bench) release(ctx context.Context, program, token string) (*released, error) {
	join := "10.213.0.1:7373,10.213.0.2:7373,10.213.0.3:7373"
	//nolint:gosec // our own
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", meadowName, program, "-join", join, "-token", token, "-nodes", fmt.Sprint(b.machines))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &released{cmd: cmd}
	s.done.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var now swarmState
			if json.Unmarshal(lines.Bytes(), &now) == nil {
				s.mu.Lock()
				s.last = now
				s.mu.Unlock()
			}
		}
	})
	return s, nil
}

func (s *released) now() swarmState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// whole is how many are wholly there.
func (s *released) whole() int {
	now := s.now()
	return min(now.Following, now.Reported)
}

// pause makes those that have not joined stop trying.
func (s *released) pause() { _ = s.cmd.Process.Signal(syscall.SIGUSR1) }

func (s *released) wait() {
	s.done.Wait()
	_ = s.cmd.Wait() // it was killed
}
