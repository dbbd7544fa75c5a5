package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// A quoted figure is what a package's own benchmark reports.
type quoted struct {
	pkg, bench, time string
	count            int
	metric           string // as the benchmark names it
	beside           string // the yardstick's
	figure           figure
}

var quotes = []quoted{
	{
		pkg: "./agent/place", bench: "BenchmarkChoose$/nodes=5000/present=0/owners=100$", time: "3x", count: 20,
		metric: "Pods/s", figure: figure{name: "placement alone, 5,000 nodes", unit: "Pods/s", goal: "20,000 Pods/s"},
	},
	{
		pkg: "./agent/place", bench: "BenchmarkChoose$/nodes=5000/present=100000/owners=100$", time: "3x", count: 20,
		metric: "Pods/s", figure: figure{name: "placement alone, 5,000 nodes, 100,000 Pods there", unit: "Pods/s", goal: "0.9 of the line above"},
	},
	{
		pkg: "./agent/leader", bench: "BenchmarkBound/nodes=1000/at-once", time: "1x", count: 20,
		metric: "Pods/s", figure: figure{name: "bound through 3 voters, synced, 1,000 nodes", unit: "Pods/s", goal: "2,000 Pods/s"},
	},
	{
		pkg: "./agent/leader", bench: "BenchmarkBound/nodes=1000/one-by-one", time: "200x", count: 5,
		metric: "p50-ms", figure: figure{name: "create to bound, the same, p50 of 200", unit: "ms", goal: "5 ms"},
	},
	{
		pkg: "./agent/leader", bench: "BenchmarkBound/nodes=1000/one-by-one", time: "200x", count: 5,
		metric: "p99-ms", figure: figure{name: "create to bound, the same, p99 of 200", unit: "ms", goal: "15 ms"},
	},
	{
		pkg: "./runtime/runc", bench: "BenchmarkStart", time: "50x", count: 4,
		metric: "start-p50-ms", beside: "runc-p50-ms", figure: figure{name: "a container's start by the driver, p50 of 50", unit: "ms", goal: ""},
	},
}

// packages runs benchmarks of packages, each in a process of its own.
func packages(ctx context.Context, b *bench) error {
	said := map[string]string{}
	for _, q := range quotes {
		key := q.pkg + " " + q.bench
		if _, done := said[key]; !done {
			//nolint:gosec // the arguments are those above
			cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", q.bench, "-benchtime", q.time, "-count", fmt.Sprint(q.count), q.pkg)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", key, err, out)
			}
			said[key] = string(out)
		}
		f := q.figure
		f.values = metric(said[key], q.metric)
		if len(f.values) == 0 {
			return fmt.Errorf("%s reports no %s", key, q.metric)
		}
		if besides := metric(said[key], q.beside); len(besides) > 0 {
			f.beside = "runc run by turns: " + number(median(besides)) + " " + f.unit
		}
		b.tell(f)
	}
	return nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// metric finds the values of a unit in the output of benchmarks.
func metric(out, unit string) []float64 {
	var values []float64
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		for i := 1; i < len(fields); i++ {
			if fields[i] != unit || unit == "" {
				continue
			}
			if v, err := strconv.ParseFloat(fields[i-1], 64); err == nil {
				values = append(values, v)
			}
		}
	}
	return values
}
