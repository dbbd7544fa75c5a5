package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

const (
	forwardFile = "forward.json"
	forwardLog  = "forward.log"
	// dialWait bounds one attempt. An agent that is gone refuses at once.
	dialWait = time.Second
	// deafFor is how long a node may leave unanswered what was sent to it. One
	// without power says no goodbye, and a client would wait for it.
	deafFor = time.Second
)

// keepalive asks a node that has nothing to say whether it is there.
var keepalive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}

// impatient gives a connection up after deafFor.
func impatient(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(deafFor.Milliseconds()))
	})
	return errors.Join(cerr, err)
}

// A forwarder is written down by the process itself, before it listens.
type forwarder struct {
	process
	Port int `json:"port"`
}

func (l *Lab) forwarder() (forwarder, bool) {
	var f forwarder
	text, err := os.ReadFile(filepath.Join(l.dir, forwardFile))
	if err != nil || json.Unmarshal(text, &f) != nil {
		return f, false
	}
	return f, f.alive()
}

// claimPort refuses a port on which somebody else listens.
func (l *Lab) claimPort(port int) error {
	if f, ok := l.forwarder(); ok && f.Port == port {
		return nil
	}
	ln, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return fault("choose another with --port", "port %d of this machine is not free: %v", port, err)
	}
	return ln.Close()
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// ensureForward starts the process that puts the API on the machine's loopback.
func (l *Lab) ensureForward(ctx context.Context) error {
	if f, ok := l.forwarder(); ok {
		if f.Port == l.Port {
			return nil
		}
		if err := l.endForward(ctx); err != nil {
			return err
		}
	}
	path := filepath.Join(l.dir, forwardLog)
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the forwarder's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(l.exe, "lab", "forward", "--name", l.Name, "--port", strconv.Itoa(l.Port)) //nolint:gosec // this very program
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", plainEnv(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the forwarder: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the child, or with this process
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	w := &launch{done: ended}
	up := until(ctx, startWait, func() bool {
		f, ok := l.forwarder()
		return w.ended() || ok && f.Port == l.Port && listens(l.Port)
	})
	if !up || w.ended() {
		return fault("read "+path, "the forwarder did not start: %s", lastLine(path))
	}
	return nil
}

func listens(port int) bool {
	c, err := net.DialTimeout("tcp4", loopback(port), dialWait)
	if err != nil {
		return false
	}
	_ = c.Close() // it was only a question
	return true
}

func (l *Lab) endForward(ctx context.Context) error {
	return exterminate(ctx, func() ([]process, error) {
		if f, ok := l.forwarder(); ok {
			return []process{f.process}, nil
		}
		return nil, nil
	})
}

// Forward listens on the machine's loopback until ctx ends and passes every
// connection on to the agent of some node, byte by byte: TLS is between the
// client and the agent. It also serves the way out of the lab.
func Forward(ctx context.Context, name string, port int, logger *slog.Logger) error {
	l, err := Look(name)
	if err != nil {
		return err
	}
	self, ok := findProcess(os.Getpid())
	if !ok {
		return errors.New("cannot find this process in /proc")
	}
	text, err := json.Marshal(forwarder{process: self, Port: port})
	if err != nil {
		return err
	}
	if err := writeAside(filepath.Join(l.dir, forwardFile), text); err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", loopback(port))
	if err != nil {
		return err
	}
	way, err := listenEgress(l.egress())
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	group, ctx := errgroup.WithContext(ctx)
	e := &exit{log: logger, slots: semaphore.NewWeighted(egressConns)}
	group.Go(func() error { return e.serve(ctx, way) })
	p := &pass{name: name, log: logger}
	group.Go(func() error { return p.serve(ctx, ln) })
	group.Go(func() error { return (&publisher{name: name, log: logger}).run(ctx) })
	return group.Wait()
}

// serve passes every connection on until ctx ends.
func (p *pass) serve(ctx context.Context, ln net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of descriptors, or a client that is gone already
			p.log.Warn("cannot accept", "err", err)
			pause(ctx, pollEvery)
			continue
		}
		conns.Go(func() { p.carry(ctx, c) })
	}
}

// pass carries connections to the nodes of a lab.
type pass struct {
	name string
	log  *slog.Logger

	to func(*node) string // where at a node; nil: its agent

	mu   sync.Mutex
	last string // the node that answered last
}

func (p *pass) carry(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	agent, err := p.dial(ctx)
	if err != nil {
		p.log.Warn("no agent answers", "err", err)
		return
	}
	defer func() { _ = agent.Close() }()
	defer context.AfterFunc(ctx, func() { _ = client.Close(); _ = agent.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pipe(agent, client) })
	both.Go(func() { pipe(client, agent) })
	both.Wait()
}

// pipe copies one direction to its end, and passes the end on. When it breaks,
// the other direction has nobody to talk to either.
func pipe(to, from net.Conn) {
	_, err := io.Copy(to, from)
	half, ok := to.(interface{ CloseWrite() error })
	if err == nil && ok && half.CloseWrite() == nil {
		return
	}
	_ = to.Close()
	_ = from.Close()
}

// dial tries the nodes until one answers: first those that reach most others, and
// among them the one that answered last.
func (p *pass) dial(ctx context.Context) (net.Conn, error) {
	l, err := Look(p.name)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	last := p.last
	p.mu.Unlock()
	slices.SortStableFunc(l.Nodes, func(a, b *node) int {
		if d := l.reach(b) - l.reach(a); d != 0 {
			return d
		}
		switch last {
		case a.Name:
			return -1
		case b.Name:
			return 1
		}
		return 0
	})
	var errs []error
	for _, n := range l.Nodes {
		if n.Killed || l.held(n) || l.removed(n) {
			continue
		}
		var c net.Conn
		err := inside(l.namespace(n), func() error {
			d := net.Dialer{Timeout: dialWait, Control: impatient, KeepAliveConfig: keepalive} // an address needs no other goroutine
			var err error
			at := n.advertise()
			if p.to != nil {
				at = p.to(n)
			}
			c, err = d.DialContext(ctx, "tcp4", at)
			return err
		})
		if err == nil {
			p.mu.Lock()
			p.last = n.Name
			p.mu.Unlock()
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(append(errs, errors.New("none of the lab's nodes has an agent"))...)
}
