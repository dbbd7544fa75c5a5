package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// labName is that of every lab that is raised here, one after the other.
const labName = "bench"

// A lab is a cluster on this machine.
type lab struct {
	b   *bench
	ctx context.Context //nolint:containedctx // of the run: every command ends with it
	env []string
}

// raise makes a lab of so many nodes. The caller takes it down.
func (b *bench) raise(ctx context.Context, nodes int) (*lab, error) {
	l := &lab{b: b, ctx: ctx, env: append(os.Environ(), "SKEIN_CONFIG="+filepath.Join(b.dir, "contexts", "config.json"))}
	if _, err := l.skeind("lab", "down", "--name", labName); err != nil { // of a run that was broken off
		return nil, err
	}
	if _, err := l.skeind("lab", "up", "--name", labName, "--nodes", fmt.Sprint(nodes), "--port", fmt.Sprint(b.port)); err != nil {
		l.down()
		return nil, err
	}
	return l, nil
}

// with measures on a lab that it takes down again.
func (b *bench) with(ctx context.Context, nodes int, measure func(*lab) error) error {
	l, err := b.raise(ctx, nodes)
	if err != nil {
		return err
	}
	defer l.down()
	return measure(l)
}

func (l *lab) down() {
	l.ctx = context.WithoutCancel(l.ctx)
	if _, err := l.skeind("lab", "down", "--name", labName); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

func (l *lab) command(stdin, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(l.ctx, filepath.Join("bin", program), args...)
	cmd.Env = l.env
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return string(out), nil
}

func (l *lab) skein(args ...string) (string, error)  { return l.command("", "skein", args...) }
func (l *lab) skeind(args ...string) (string, error) { return l.command("", "skeind", args...) }
func (l *lab) lab(verb string, args ...string) error {
	_, err := l.skeind(append([]string{"lab", verb, "--name", labName}, args...)...)
	return err
}

// A pod is what a table of Pods says of one.
type pod struct{ name, node string }

// ready lists the Pods that run and are ready, and where.
func (l *lab) ready() ([]pod, error) {
	out, err := l.skein("get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name, DeletionTimestamp string }
			Spec     struct{ NodeName string }
			Status   struct {
				Phase      string
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("read the list of Pods: %w", err)
	}
	var pods []pod
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" && p.Status.Phase == "Running" && p.Metadata.DeletionTimestamp == "" {
				pods = append(pods, pod{p.Metadata.Name, p.Spec.NodeName})
			}
		}
	}
	return pods, nil
}

// nodes is who leads, and how many are ready and have a vote.
type nodes struct {
	leader        string
	ready, voters int
}

func (l *lab) nodes() (all nodes, err error) {
	out, err := l.skein("get", "nodes", "-o", "json")
	if err != nil {
		return all, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Status struct {
				Conditions []struct{ Type, Status string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return all, fmt.Errorf("read the list of nodes: %w", err)
	}
	for _, n := range list.Items {
		if n.Metadata.Labels["skein.dev/leader"] == "true" {
			all.leader = n.Metadata.Name
		}
		if n.Metadata.Labels["skein.dev/voter"] == "true" {
			all.voters++
		}
		for _, c := range n.Status.Conditions {
			if c.Type == "Ready" && c.Status == "True" {
				all.ready++
			}
		}
	}
	return all, nil
}

var errLate = errors.New("it takes too long")

// until asks again and again until the answer is yes. What cannot be asked for
// now is asked for again.
func (l *lab) until(what string, patience time.Duration, yes func() (bool, error)) error {
	end := time.Now().Add(patience)
	for {
		ok, err := yes()
		if ok && err == nil {
			return nil
		}
		if l.ctx.Err() != nil {
			return l.ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: %w", what, errors.Join(errLate, err))
		}
	}
}

// whole waits until so many nodes are ready, and as many vote as should.
func (l *lab) whole(n int) error {
	voters := map[bool]int{true: 1, false: 3}[n < 3]
	return l.until("wait for all nodes", time.Minute, func() (bool, error) {
		all, err := l.nodes()
		return all.leader != "" && all.ready == n && all.voters >= voters, err
	})
}

// agents gives the process of every agent, by its node.
func (l *lab) agents() (map[string]int, error) {
	out := map[string]int{}
	paths, err := filepath.Glob(filepath.Join("/run/skein/lab", labName, "n*", "data", "keeper", "agent.pid"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var pid int
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		rel, _ := filepath.Rel(filepath.Join("/run/skein/lab", labName), path)
		out[strings.Split(rel, "/")[0]] = pid
	}
	return out, nil
}
