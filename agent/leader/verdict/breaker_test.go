package verdict

import (
	"fmt"
	"testing"
	"time"
)

func TestOneNodeThatComesAndGoesIsNotMany(t *testing.T) {
	m := New("n1", Defaults())
	now := time.Unix(1000, 0)
	for range 20 {
		now = now.Add(100 * time.Millisecond)
		m.suspectAnother(now, &node{name: "n2"})
	}
	if m.breaker.on {
		t.Fatal("twenty suspicions of one node hold all verdicts back")
	}
	for i := range burstLeast {
		m.suspectAnother(now, &node{name: fmt.Sprint("m", i)})
	}
	if !m.breaker.on {
		t.Errorf("%d nodes suspect at once, and verdicts go on", burstLeast+1)
	}
}
