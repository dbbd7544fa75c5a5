package verdict

import (
	"cmp"
	"slices"
	"time"
)

// A Budget bounds how many Pods are moved by our own act, which is: replaced
// because we say that their nodes are lost. It is a bucket that holds an
// allowance and fills again in a minute. The zero Budget is full.
type Budget struct {
	allowance int       // as it was when the bucket was last full
	spent     float64   // of it; at least 0
	at        time.Time // when spent was right
}

// leastMoves is what any cluster may move in a minute.
const leastMoves = 64

// Allowance is how many Pods may be moved in a minute, given how many run on
// each node, lost ones among them: all of the two fullest, so that the loss of
// any two is never held up.
func Allowance(perNode []int) int {
	sorted := slices.Clone(perNode)
	slices.SortFunc(sorted, func(a, b int) int { return cmp.Compare(b, a) })
	sum := 0
	for _, n := range sorted[:min(2, len(sorted))] {
		sum += n
	}
	return max(sum, leastMoves)
}

// Left is how many may be moved now, and Allowance how many in a minute. What
// the allowance is by now counts once the bucket is full: moving Pods makes
// others' nodes fuller, which is no reason to move more.
func (b *Budget) Left(now time.Time, allowance int) int {
	if passed := now.Sub(b.at); passed > 0 {
		b.spent = max(b.spent-passed.Minutes()*float64(b.allowance), 0)
		b.at = now
	}
	if b.spent == 0 {
		b.allowance = allowance
	}
	return max(int(float64(b.allowance)-b.spent+1e-6), 0)
}

// Allowance is how many may be moved in a minute, by what Left was told.
func (b *Budget) Allowance() int { return b.allowance }

// Spend counts so many as moved, of what Left allowed.
func (b *Budget) Spend(moves int) { b.spent += float64(moves) }
