package verdict

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAllowance(t *testing.T) {
	tests := map[string]struct {
		perNode []int
		want    int
	}{
		"an empty cluster":                     {nil, 64},
		"a small one":                          {[]int{3, 4, 5}, 64},
		"the two fullest, wherever they stand": {[]int{10, 300, 20, 400, 30}, 700},
		"one node":                             {[]int{100}, 100},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Allowance(tt.perNode); got != tt.want {
				t.Errorf("Allowance(%v) = %d, want %d", tt.perNode, got, tt.want)
			}
		})
	}
}

// TestTheBudgetIsKept spends as much as it may at any times, and looks at every
// minute of it.
func TestTheBudgetIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type spending struct {
			at time.Time
			n  int
		}
		var b Budget
		var all []spending
		allowance := rapid.IntRange(64, 1000).Draw(t, "allowance")
		now := time.Unix(1000, 0)
		if left := b.Left(now, allowance); left != allowance {
			t.Fatalf("at first %d are left, want all %d", left, allowance)
		}
		for range rapid.IntRange(1, 100).Draw(t, "times") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
			n := min(b.Left(now, allowance), rapid.IntRange(0, 1500).Draw(t, "want"))
			b.Spend(n)
			all = append(all, spending{now, n})
		}
		for i := range all {
			sum := 0
			for _, s := range all[i:] {
				if s.at.Sub(all[i].at) < time.Minute {
					sum += s.n
				}
			}
			if sum > 2*allowance {
				t.Fatalf("%d moved within a minute, want at most what was saved and what comes back: %d", sum, 2*allowance)
			}
		}
		if left := b.Left(now.Add(time.Minute), allowance); left != allowance {
			t.Fatalf("a quiet minute later %d are left, want all %d", left, allowance)
		}
	})
}
