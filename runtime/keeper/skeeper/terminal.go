package main

import (
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// A container's terminal has two ends. The keeper holds the one that is not the
// container's: what the container writes comes out there, and it hangs up when
// its holder dies. The keeper listens at a socket in the folder of the output:
// whoever comes first, the runtime, gives the terminal; whoever comes then, an
// agent that wants to type or to say how large the window is, is given it. No
// word is spoken.

// openInput opens what a container's folder has besides output: its input, and
// the socket for its terminal.
func (c *collector) openInput(s *sink, id string) error {
	if exists(s.dir + "/" + keeper.Input) {
		fd, err := syscall.Open(s.dir+"/"+keeper.Input, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		s.input = fd
	}
	if s.terminal = exists(s.dir + "/" + keeper.Terminal); !s.terminal {
		return nil
	}
	var err error
	if s.door, err = listenIn(s.dir, keeper.Console); err != nil {
		return err
	}
	c.doors[int32(s.door)] = s //nolint:gosec // small
	if err := c.poll1(s.door); err != nil {
		return err
	}
	if fd, ok := c.given[id]; ok {
		delete(c.given, id)
		return c.receive(s, fd)
	}
	return nil
}

// listenIn listens at a socket in a folder, by way of a descriptor, since the
// address of a socket holds 107 bytes.
func listenIn(dir, name string) (int, error) {
	at, err := os.Open(dir)
	if err != nil {
		return -1, err
	}
	defer at.Close()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	_ = os.Remove(dir + "/" + name) // an earlier keeper's
	path := "/proc/self/fd/" + strconv.Itoa(int(at.Fd())) + "/" + name
	if err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err == nil {
		err = syscall.Listen(fd, 16)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return -1, os.NewSyscallError("listen", err)
	}
	return fd, nil
}

// maxCalls bounds who may stand at the door of one container without giving
// anything.
const maxCalls = 8

// knock serves the door of a terminal, or one that has come to it.
func (c *collector) knock(s *sink, fd int) {
	if fd != s.door {
		terminal, err := takeDescriptor(fd)
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		c.dismiss(s, fd)
		switch {
		case err != nil:
			say("take a terminal: " + err.Error())
		case s.pipes[0] >= 0:
			_ = syscall.Close(terminal) // there is one
		default:
			if err := c.receive(s, terminal); err != nil {
				say("take a terminal: " + err.Error())
			}
		}
		return
	}
	call, _, err := syscall.Accept4(fd, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	if err != nil {
		return
	}
	if s.pipes[0] >= 0 {
		_ = syscall.Sendmsg(call, []byte{0}, syscall.UnixRights(s.pipes[0]), nil, syscall.MSG_NOSIGNAL) // it may have gone
		_ = syscall.Close(call)
		return
	}
	if len(s.calls) >= maxCalls || c.poll1(call) != nil {
		_ = syscall.Close(call)
		return
	}
	s.calls = append(s.calls, call)
	c.doors[int32(call)] = s //nolint:gosec // small
}

// dismiss closes the connection of one who has come.
func (c *collector) dismiss(s *sink, fd int) {
	delete(c.doors, int32(fd)) //nolint:gosec // small
	_ = syscall.Close(fd)
	for i, call := range s.calls {
		if call == fd {
			s.calls = append(s.calls[:i], s.calls[i+1:]...)
			return
		}
	}
}

// takeDescriptor receives the one descriptor that is sent.
func takeDescriptor(fd int) (int, error) {
	var data [256]byte
	oob := make([]byte, syscall.CmsgSpace(4))
	n, oobn, _, _, err := syscall.Recvmsg(fd, data[:], oob, syscall.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, errors.Join(errors.New("none was sent, in bytes "+strconv.Itoa(n)), err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, errors.Join(errors.New("none was sent"), err)
	}
	return fds[0], nil
}

// receive reads a terminal from here on.
func (c *collector) receive(s *sink, fd int) error {
	err := syscall.SetNonblock(fd, true)
	if err == nil {
		err = c.poll1(fd)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return err
	}
	s.pipes[0] = fd
	c.pipes[int32(fd)] = s //nolint:gosec // small
	return nil
}

// settle sees to it that a terminal that nobody is at does not keep us awake: it
// is ready for as long as that lasts, and is looked at again when it changes.
func (c *collector) settle(s *sink, fd int, moved bool) {
	if !s.terminal || moved != s.quiet {
		return
	}
	events := uint32(syscall.EPOLLIN)
	if !moved {
		events |= 1 << 31 // EPOLLET, which syscall has as a negative number
	}
	event := syscall.EpollEvent{Events: events, Fd: int32(fd)} //nolint:gosec // small
	if err := syscall.EpollCtl(c.poll, syscall.EPOLL_CTL_MOD, fd, &event); err != nil {
		say("watch a terminal: " + err.Error())
		return
	}
	s.quiet = !moved
}

// endInput lets go of a container's input.
func (c *collector) endInput(id string) {
	if s := c.sinks[id]; s != nil && s.input >= 0 {
		_ = syscall.Close(s.input)
		s.input = -1
	}
	_ = os.Remove(c.dir.LogDir(id) + "/" + keeper.Input)
	_ = os.Remove(c.dir.LogDir(id) + keeper.InputEnd)
}

func (c *collector) closeInput(s *sink) {
	if s.input >= 0 {
		_ = syscall.Close(s.input)
		s.input = -1
	}
	for len(s.calls) > 0 {
		c.dismiss(s, s.calls[0])
	}
	if s.door >= 0 {
		delete(c.doors, int32(s.door)) //nolint:gosec // small
		_ = syscall.Close(s.door)
		s.door = -1
	}
}

// expireEvery is how often old output is looked for.
const expireEvery = time.Hour

func (c *collector) sweep() {
	now := time.Now()
	if now.Sub(c.swept) < expireEvery {
		return
	}
	c.swept = now
	for _, s := range c.sinks {
		s.expire(now)
	}
}
