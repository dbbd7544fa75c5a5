package identity

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A DialFunc reaches an address; (*net.Dialer).DialContext is one.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// How long a dead machine is waited for: what we sent goes unacknowledged for
// userTimeout, or three probes of an idle connection unanswered.
const (
	userTimeout   = 3 * time.Second
	dialTimeout   = 3 * time.Second
	keepaliveWait = time.Second
	keepalives    = 3
)

// People's machines sleep and change networks: they get longer.
const (
	peopleKeepaliveWait = 15 * time.Second
	peopleUserTimeout   = time.Minute
)

func nodeKeepalive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: keepaliveWait, Interval: keepaliveWait, Count: keepalives}
}

// TCPDialer dials other nodes over the machine's own network.
func TCPDialer() DialFunc {
	d := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: nodeKeepalive(), Control: control}
	return d.DialContext
}

// ListenTCP opens the port on the machine's own network.
func ListenTCP(ctx context.Context, addr string) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: nodeKeepalive(), Control: control}
	l, err := c.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// control is inherited by the connections that a socket accepts.
func control(_, _ string, raw syscall.RawConn) error {
	return setUserTimeout(raw, userTimeout)
}

func setUserTimeout(raw syscall.RawConn, d time.Duration) error {
	var err error
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("set TCP_USER_TIMEOUT: %w", err)
	}
	return nil
}

// tune relaxes a connection that turned out to be a person's. What fails here
// only makes it break sooner.
func tune(c net.Conn, node bool) {
	t, ok := c.(*net.TCPConn)
	if !ok || node {
		return
	}
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: peopleKeepaliveWait, Interval: peopleKeepaliveWait, Count: keepalives})
	if raw, err := t.SyscallConn(); err == nil {
		_ = setUserTimeout(raw, peopleUserTimeout)
	}
}
