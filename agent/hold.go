package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

const (
	holdPatience = 20 * time.Second // for an agent to stop
	holdLook     = 50 * time.Millisecond
)

// holdAgent stops the agent of a keeper and keeps it from being started, until
// the function that it returns is called. Its containers run on. Where no agent
// runs there is nothing to do but to keep one from starting.
func holdAgent(ctx context.Context, dir string, out io.Writer) (release func() error, err error) {
	hold := keeper.Dir(dir).Hold()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return func() error { return nil }, nil // never ran under a keeper
	}
	_, before := os.Stat(hold) // somebody else's, who will take it away
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		return nil, fmt.Errorf("hold the agent: %w", err)
	}
	release = func() error {
		if before == nil {
			return nil
		}
		if err := os.Remove(hold); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("let the agent start again: %w", err)
		}
		return nil
	}
	pid, running := runningAgent(keeper.Dir(dir))
	if !running {
		return release, nil
	}
	fmt.Fprintf(out, "The agent (process %d) stands still meanwhile; its containers run on.\n\n", pid)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return nil, errors.Join(fmt.Errorf("stop the agent: %w", err), release())
	}
	for end := time.Now().Add(holdPatience); running; _, running = runningAgent(keeper.Dir(dir)) {
		if time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("stop the agent: process %d is still there", pid), release())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), release())
		case <-time.After(holdLook):
		}
	}
	return release, nil
}

// runningAgent finds the agent that a keeper has started, by its process and
// when that began.
func runningAgent(dir keeper.Dir) (pid int, running bool) {
	text, err := os.ReadFile(dir.AgentState())
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, false
	}
	if pid, err = strconv.Atoi(f[0]); err != nil || pid <= 1 {
		return 0, false
	}
	stat, err := keeper.ReadStat(pid)
	return pid, err == nil && strconv.FormatUint(stat.Start, 10) == f[1] && stat.State != 'Z'
}
