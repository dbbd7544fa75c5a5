package fabric

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
)

// A sysctl is a switch of the kernel, by its path below /proc/sys/net.
type sysctl struct{ path, value string }

func (s sysctl) file() string { return filepath.Join("/proc/sys/net", s.path) }

// inside runs do on a thread that is in the network namespace and ends with it, so
// nothing else ever runs there by mistake.
func inside(ns netns.NsHandle, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		done <- do()
	}()
	return <-done
}

// readSwitches reads the present values. What this kernel does not have, such as
// IPv6, is left out; so are those of links that are not there yet.
func (f *Fabric) readSwitches(want []sysctl) (map[string]string, error) {
	have := make(map[string]string, len(want))
	err := inside(f.ns, func() error {
		for _, s := range want {
			b, err := os.ReadFile(s.file())
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return fmt.Errorf("read switch: %w", err)
			default:
				have[s.path] = strings.TrimSpace(string(b))
			}
		}
		return nil
	})
	return have, err
}

func (f *Fabric) writeSwitch(s sysctl) error {
	return inside(f.ns, func() error {
		err := os.WriteFile(s.file(), []byte(s.value), 0)
		if errors.Is(err, fs.ErrNotExist) && strings.HasPrefix(s.path, "ipv6/") {
			return nil // a kernel without IPv6
		}
		return err
	})
}
