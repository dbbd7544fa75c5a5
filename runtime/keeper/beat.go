package keeper

import (
	"os"
	"strconv"
	"syscall"
)

// BeatEnv names the descriptor by which an agent tells its keeper that it is
// well: an eventfd. An agent that has told once and then falls silent is
// started again.
const BeatEnv = "SKEIN_BEAT_FD"

// TakeBeat gives the function by which this agent tells that it is well. It is
// to be called before this process has children, who must not have the
// descriptor. Without a keeper that listens, it gives one that does nothing.
func TakeBeat() func() error {
	fd, err := strconv.Atoi(os.Getenv(BeatEnv))
	_ = os.Unsetenv(BeatEnv)
	if err != nil || fd <= 2 {
		return func() error { return nil }
	}
	syscall.CloseOnExec(fd)
	return func() error {
		one := [8]byte{0: 1, 7: 1} // not zero in either byte order
		_, err := syscall.Write(fd, one[:])
		return os.NewSyscallError("write heartbeat", err)
	}
}
