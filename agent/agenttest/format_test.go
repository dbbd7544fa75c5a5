package agenttest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// Builds of two formats, this one's, 2, and 3, in one cluster.

// put has an agent of another build take the place of the one that runs.
func (c *Cluster) put(m *Machine, format uint32) {
	c.Kill(m)
	m.format = format
	c.Start(m)
	c.eventually(time.Minute, fmt.Sprintf("%s is back with format %d", m.Name, format), func() string {
		if m.run.crash() != "" {
			return m.run.crash()
		}
		return c.settled()
	})
}

// crash is how an agent ended by itself.
func (l *life) crash() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.crashed {
		return ""
	}
	return text(l.err)
}

// raised lists the machines beside whose data a higher format stands than this
// build's own.
func (c *Cluster) raised() (names []string) {
	for _, m := range c.machines {
		if body, err := os.ReadFile(filepath.Join(m.dir, "format")); err == nil && strings.TrimSpace(string(body)) != "2" {
			names = append(names, m.Name+" "+strings.TrimSpace(string(body)))
		}
	}
	return names
}

func (c *Cluster) write(name string) {
	c.user(func(ctx context.Context, p *person) error {
		return errOf(p.Apply(ctx, &skeinv1.ApplyRequest{Manifest: deployment(name, 2, 1)}))
	})
}

func TestBuildsOfTwoFormatsWorkTogetherUntilAllReadTheNewer(t *testing.T) {
	inCluster(t, 3, func(c *Cluster) {
		unraised := func(when string) {
			time.Sleep(time.Minute)
			if got := c.raised(); got != nil {
				c.fail("%s the format was raised: %v", when, got)
			}
		}
		c.eventually(time.Minute, "three vote", c.settled)
		c.put(c.machines[0], 3)
		c.write("one")
		c.put(c.machines[1], 3)
		c.write("two")
		unraised("with one old build")
		c.put(c.machines[1], 2) // it goes back
		c.write("three")
		c.PowerOff(c.machines[1])
		c.Kill(c.machines[2])
		c.machines[2].format = 3
		c.Start(c.machines[2])
		c.write("meanwhile")
		unraised("with an old build that is away")
		c.machines[1].format = 3
		c.Start(c.machines[1])
		c.eventually(time.Minute, "the format is raised", func() string {
			if got := c.raised(); strings.Join(got, ",") != "n1 3,n2 3,n3 3" {
				return fmt.Sprint(got)
			}
			return ""
		})
		c.write("four")
		m := c.machines[2]
		c.Kill(m)
		m.format = 2
		c.Start(m)
		c.eventually(time.Minute, "the old build is refused", func() string {
			if end := m.run.crash(); !strings.HasSuffix(end, "has format 3, and this build reads up to 2") {
				return "it ended with: " + end
			}
			return ""
		})
		c.put(m, 3)
		c.eventually(time.Minute, "all is settled", c.settled)
	})
}
