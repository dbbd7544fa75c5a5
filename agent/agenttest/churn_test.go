package agenttest

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// goroutines counts those of the process by where they were started.
func goroutines() map[string]int {
	var text bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&text, 2) // to memory
	count := map[string]int{}
	for _, one := range strings.Split(text.String(), "\n\n") {
		_, by, _ := strings.Cut(one, "\ncreated by ")
		by, _, _ = strings.Cut(by, " in goroutine")
		count[by]++
	}
	return count
}

// TestGoroutinesReturnToTheirCountAfterChurn makes and deletes Pods, abandons calls
// and streams, and kills an agent: what runs then is what ran before.
func TestGoroutinesReturnToTheirCountAfterChurn(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		if !c.eventually(time.Minute, "three vote", c.settled) {
			return
		}
		round := func(number int) {
			name := fmt.Sprintf("churn-%d", number)
			c.user(func(ctx context.Context, p *person) error {
				return errOf(p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: deployment(name, 12, 1)}))
			})
			for i := range 10 {
				p := c.person(i, c.machines[i%3])
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(1+i)*20*time.Millisecond)
				if stream, err := p.Watch(ctx, &skeinv1.GetRequest{Kind: "pod"}); err == nil {
					for err == nil {
						_, err = stream.Receive()
					}
					_ = stream.Close() // it was abandoned
				}
				cancel()
				p.close()
			}
			c.eventually(time.Minute, "all Pods run", c.settled)
			c.user(func(ctx context.Context, p *person) error {
				return errOf(p.Delete(ctx, &skeinv1.DeleteRequest{Objects: []*skeinv1.ObjectRef{{Kind: "deployment", Namespace: "default", Name: name}}, GraceSeconds: -1}))
			})
			c.Kill(c.machines[1])
			c.Start(c.machines[1])
			c.eventually(time.Minute, "all is well", c.settled)
			time.Sleep(5 * time.Minute) // whatever idles times out
		}
		round(0) // what is opened on first use is open
		before := goroutines()
		for i := range 5 {
			round(1 + i)
		}
		for by, n := range goroutines() {
			if n > before[by]+2 { // a connection may just have been opened
				c.fail("%d goroutines of %s, %d before", n, by, before[by])
			}
		}
	})
}
