package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dial connects from inside a network namespace. The address is literal, or
// localhost: names are resolved by nobody here. The thread is away from the
// machine's own network only while it makes the socket, so a peer that does not
// answer holds up nothing.
func (p *Pins) Dial(ctx context.Context, name, network, address string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return nil, fmt.Errorf("dial %s %s: %w", network, address, net.UnknownNetworkError(network))
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "localhost" || host == "" {
		host = "127.0.0.1"
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return nil, fmt.Errorf("dial %s: not an address: %w", address, err)
	}
	return p.dial(ctx, name, network, net.JoinHostPort(host, port))
}

func (p *Pins) dial(ctx context.Context, name, network, address string) (net.Conn, error) {
	target, err := os.Open(p.Path(name, Net))
	if err != nil {
		return nil, fmt.Errorf("open the network of %s: %w", name, err)
	}
	defer target.Close()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil { //nolint:gosec // a descriptor is small
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter the network of %s: %w", name, err)
	}
	away := true
	back := func() error {
		if !away {
			return nil
		}
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil { //nolint:gosec // a descriptor is small
			return err // stays locked, so that the thread ends with its goroutine
		}
		away = false
		runtime.UnlockOSThread()
		return nil
	}
	sockets := 0
	d := net.Dialer{Control: func(string, string, syscall.RawConn) error {
		// Go makes a second socket when a connection met itself, or found no
		// port. It would be one of the machine's own network by then.
		if sockets++; sockets > 1 {
			return errSecondSocket
		}
		return back()
	}}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, address)
	return conn, errors.Join(err, back())
}

var errSecondSocket = errors.New("nobody listens")
