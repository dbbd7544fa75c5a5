// Command bench measures skein on this machine: whole clusters of real agents in
// the lab, by the programs that a person uses, and what the benchmarks of the
// packages tell. Each figure is one line with the number of runs, the median, the
// spread, its goal and, where there is one, a yardstick measured in the same run.
// It owns how figures are obtained; what they should be is in docs/performance.md.
//
// It needs root, and what "make" builds. It leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if len(os.Args) == 4 && os.Args[1] == "pull" { // a process of chapter "pull"
		if err := pullAlone(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// A chapter measures figures that come out of the same cluster.
type chapter struct {
	name    string
	measure func(ctx context.Context, b *bench) error
}

// bench is what chapters share.
type bench struct {
	runs     int
	port     int
	machines int    // that the swarm simulates
	dir      string // of contexts and of programs built for this
	out      *os.File
}

func run(ctx context.Context) error {
	only := flag.String("run", "", "regular expression of the chapters to run; empty: all")
	runs := flag.Int("n", 20, "runs of figures that are measured by whole clusters, at least 1")
	port := flag.Int("port", 7395, "on which the lab's API is reached on this machine")
	machines := flag.Int("machines", 1000, "simulated agents, 1 to 60000")
	flag.Parse()
	want, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("chapters to run: %w", err)
	}
	dir, err := os.MkdirTemp("", "skein-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // of this run alone
	b := &bench{runs: max(*runs, 1), port: *port, machines: *machines, dir: dir, out: os.Stdout}
	b.head()
	var failed error
	for _, c := range chapters {
		if !want.MatchString(c.name) {
			continue
		}
		began := time.Now()
		if err := c.measure(ctx, b); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", c.name, err)
			failed = fmt.Errorf("not all could be measured")
		}
		fmt.Fprintf(os.Stderr, "bench: %s took %d s\n", c.name, int(time.Since(began).Seconds()))
	}
	return failed
}

var chapters = []chapter{
	{"packages", packages},
	{"commands", commands},
	{"power", power},
	{"leader", leaderLoss},
	{"many", many},
	{"logs", logs},
	{"exec", execs},
	{"top", top},
	{"idle", idle},
	{"busy", busy},
	{"swarm", swarm},
	{"spread", spread},
	{"pull", pulls},
}
