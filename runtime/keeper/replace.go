package keeper

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ReloadArgs is what SIGHUP makes the keeper of this folder execute.
func (d Dir) ReloadArgs() ([]string, error) {
	text, err := os.ReadFile(d.Reload())
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00"), nil
}

// Replace has the keeper of this folder replaced in place, and its agent with
// it, and returns once the new agent serves. The containers run on.
func (d Dir) Replace(ctx context.Context) error {
	pid, err := ReadPID(d.KeeperPID())
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no keeper runs here")
	}
	if err != nil {
		return err
	}
	self, err := Find(pid)
	if err != nil {
		return errors.New("the keeper that ran here is gone: pid " + strconv.Itoa(pid))
	}
	before, _ := ReadPID(d.AgentReady()) // 0: none serves
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		return os.NewSyscallError("signal the keeper", err)
	}
	var gone error
	err = await(ctx, string(d), func() bool {
		if stat, err := self.Stat(); err != nil || stat.State == 'Z' {
			gone = errors.New("the keeper ended instead of being replaced: its log says why")
			return true
		}
		now, err := ReadPID(d.AgentReady())
		return err == nil && now != before
	})
	return errors.Join(gone, err)
}
