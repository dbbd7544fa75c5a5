package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A figure is what was measured of one thing.
type figure struct {
	name   string
	unit   string // s, ms, %, MB, /s, or what is counted
	goal   string
	values []float64
	beside string // the yardstick, and how it came out
}

const layout = "%-58s %5s %10s %21s %10s  %-26s %s\n"

func (b *bench) head() {
	fmt.Fprintf(b.out, layout, "FIGURE", "N", "MEDIAN", "10TH TO 90TH", "WORST", "GOAL", "BESIDE IT")
}

// tell prints a figure. The worst is the largest, or the smallest of a rate.
func (b *bench) tell(f figure) {
	if len(f.values) == 0 {
		return
	}
	v := slices.Sorted(slices.Values(f.values))
	at := func(share float64) float64 { return v[min(int(share*float64(len(v))), len(v)-1)] }
	worst := v[len(v)-1]
	if strings.HasSuffix(f.unit, "/s") {
		worst = v[0]
	}
	show := func(x float64) string { return number(x) + " " + f.unit }
	spread := number(at(0.1)) + " to " + number(at(0.9))
	fmt.Fprintf(b.out, layout, f.name, fmt.Sprint(len(v)), show(at(0.5)), spread, show(worst), f.goal, f.beside)
}

// number has three digits that say something.
func number(x float64) string {
	switch {
	case x >= 100 || x == float64(int(x)):
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

func seconds(d time.Duration) float64 { return d.Seconds() }
func millis(d time.Duration) float64  { return float64(d.Microseconds()) / 1000 }

// spent times a function.
func spent(do func() error) (time.Duration, error) {
	began := time.Now()
	err := do()
	return time.Since(began), err
}
