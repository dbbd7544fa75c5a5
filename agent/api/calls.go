package api

import "sync"

// maxCalls bounds the calls of one identity that are open at once on one agent:
// watches, logs, terminals and what waits. A token that is used by a script
// gone wild costs this much and no more.
const maxCalls = 256

// calls counts what each identity has open.
type calls struct {
	mu   sync.Mutex
	open map[string]int
}

// enter counts one more call, or says that there are too many.
func (c *calls) enter(who string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[who] >= maxCalls {
		return false
	}
	c.open[who]++
	return true
}

func (c *calls) leave(who string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[who]--; c.open[who] <= 0 {
		delete(c.open, who)
	}
}
