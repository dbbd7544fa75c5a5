package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/skein-dev/skein/runtime/balance"
	"github.com/skein-dev/skein/runtime/fabric"
	"github.com/skein-dev/skein/runtime/network"
	"github.com/skein-dev/skein/runtime/runc"
)

// A Place is where one agent of this machine has left its traces.
type Place struct {
	DataDir string
	Cgroup  string // below each controller's mount
	Socket  string
}

// Clean removes everything that skein made on this machine, data last, so that
// a second try finds its way when the first was cut off. It goes by what the
// kernel shows: processes in the cgroup, the keeper and the agent by the files
// they wrote, mounts below the data directory.
func Clean(ctx context.Context, place Place, out io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	data, err := filepath.Abs(place.DataDir)
	if err != nil {
		return err
	}
	if filepath.Clean(data) == "/" {
		return errors.New("the data directory is the whole file system")
	}
	keeper := filepath.Join(data, "keeper")
	if err := exterminate(ctx, func() ([]process, error) {
		var found []process
		for _, name := range []string{"keeper.pid", "agent.pid"} { // the keeper first: it would start the agent again
			if p, ok := writtenDown(filepath.Join(keeper, name)); ok {
				found = append(found, p)
			}
		}
		return found, nil
	}); err != nil {
		return fmt.Errorf("end the agent: %w", err)
	}
	say("agent ended")
	var l Lab
	if err := l.clearCgroup(ctx, place.Cgroup); err != nil {
		return fmt.Errorf("end the containers: %w", err)
	}
	say("containers ended")
	if err := errors.Join(clearUsers(data), unmountBelow(data)); err != nil {
		return err
	}
	if err := unwire(); err != nil {
		return fmt.Errorf("leave the cluster's network: %w", err)
	}
	say("network left")
	if err := os.Remove(place.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_ = os.Remove(filepath.Dir(place.Socket)) // labs may be in it
	if err := os.RemoveAll(data); err != nil {
		return err
	}
	say("%s removed", data)
	return nil
}

// unwire takes away what an agent has made in this network: the table of Services,
// the ways to other machines, and the links of Pods.
func unwire() error {
	table, err := balance.Open()
	if err != nil {
		return err
	}
	ways, err := fabric.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return errors.Join(err, table.Close())
	}
	return errors.Join(table.Remove(), table.Close(), ways.Remove(), ways.Close(), network.RemoveLinks())
}

// clearUsers takes away where Pods of an agent with that data directory, that had
// users of their own, found their roots.
func clearUsers(data string) error {
	dir := runc.UsersDir(data)
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(dir)) // others may be in it
	return nil
}

// writtenDown finds the process that has written its number into a file. The
// number may be another's by now: only a program of ours is taken.
func writtenDown(path string) (process, bool) {
	p, ok := readPID(path, "")
	if !ok {
		return process{}, false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
	if err != nil || len(name) < 5 {
		return process{}, false
	}
	return p, string(name[:5]) == "skeep" || string(name[:5]) == "skein"
}
