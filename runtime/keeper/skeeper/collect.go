package main

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

const (
	pipeSize = 1 << 20 // what a container may write while nobody reads
	minLimit = 4 << 10
)

// A collector moves the output of containers from their FIFOs to disk. It is
// one loop with one buffer: a hundred containers that write at once cost a
// hundred times two descriptors and nothing else. It never syncs and never
// waits: what cannot be written is dropped and counted.
type collector struct {
	dir   keeper.Dir
	poll  int // epoll
	watch int // inotify on the folder of all output
	wake  int // eventfd: stop
	ended chan struct{}

	sinks map[string]*sink // by container
	pipes map[int32]*sink  // by descriptor
	doors map[int32]*sink  // by descriptor: sockets where terminals are given, see terminal.go
	given map[string]int   // terminals that an earlier keeper held, by container
	swept time.Time
	buf   []byte // a frame
	news  []byte // inotify events
}

func newCollector(dir keeper.Dir, terminals map[string]int) (*collector, error) {
	c := &collector{
		dir: dir, sinks: map[string]*sink{}, pipes: map[int32]*sink{}, ended: make(chan struct{}),
		doors: map[int32]*sink{}, given: terminals, swept: time.Now(),
		buf: make([]byte, keeper.HeaderLen+keeper.MaxFrame), news: make([]byte, 8<<10),
	}
	var err error
	if c.poll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create", err)
	}
	if c.watch, err = syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	_, err = syscall.InotifyAddWatch(c.watch, dir.Logs(), syscall.IN_CREATE|syscall.IN_MOVED_TO|syscall.IN_MOVED_FROM|syscall.IN_DELETE)
	if err != nil {
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	wake, _, e := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if e != 0 {
		return nil, os.NewSyscallError("eventfd", e)
	}
	c.wake = int(wake)
	if err := errors.Join(c.poll1(c.watch), c.poll1(c.wake)); err != nil {
		return nil, err
	}
	c.scan()
	for _, fd := range c.given {
		_ = syscall.Close(fd) // its container has gone
	}
	return c, nil
}

func (c *collector) poll1(fd int) error {
	return syscall.EpollCtl(c.poll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}) //nolint:gosec // small
}

// run serves until stop is called.
func (c *collector) run() {
	defer close(c.ended)
	events := make([]syscall.EpollEvent, 64)
	for {
		c.sweep()
		n, err := syscall.EpollWait(c.poll, events, int(expireEvery/time.Millisecond))
		if err != nil && !errors.Is(err, syscall.EINTR) {
			say("wait for output: " + err.Error())
			return
		}
		for _, e := range events[:max(n, 0)] {
			switch int(e.Fd) {
			case c.wake:
				_, _ = syscall.Read(c.wake, c.news[:8])
				return
			case c.watch:
				c.look()
			default:
				if s := c.pipes[e.Fd]; s != nil {
					c.settle(s, int(e.Fd), c.move(s, int(e.Fd)))
				} else if s := c.doors[e.Fd]; s != nil {
					c.knock(s, int(e.Fd))
				}
			}
		}
	}
}

// stop ends run between two frames.
func (c *collector) stop() {
	_, _ = syscall.Write(c.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-c.ended
}

// hold stops, and keeps the FIFOs open for the program that is executed next.
func (c *collector) hold() string {
	c.stop()
	var list []string
	keep := func(fd int, name string) {
		if fd >= 0 {
			keepOnExec(fd)
			list = append(list, strconv.Itoa(fd)+name)
		}
	}
	for id, s := range c.sinks {
		keep(s.input, "")
		if s.terminal {
			keep(s.pipes[0], ":"+id)
			continue
		}
		keep(s.pipes[0], "")
		keep(s.pipes[1], "")
	}
	return strings.Join(list, " ")
}

// resume goes on after hold.
func (c *collector) resume() {
	for _, s := range c.sinks {
		for _, fd := range []int{s.pipes[0], s.pipes[1], s.input} {
			if fd >= 0 {
				syscall.CloseOnExec(fd)
			}
		}
	}
	c.ended = make(chan struct{})
	go c.run()
}

// look follows what happened in the folder.
func (c *collector) look() {
	for {
		n, err := syscall.Read(c.watch, c.news)
		if err != nil || n <= 0 {
			return
		}
		keeper.Events(c.news[:n], func(_ int32, mask uint32, name string) {
			switch {
			case mask&syscall.IN_Q_OVERFLOW != 0:
				c.scan()
			case strings.HasPrefix(name, "."):
			case mask&(syscall.IN_MOVED_FROM|syscall.IN_DELETE) != 0:
				c.forget(name)
			case strings.HasSuffix(name, keeper.EndMark):
				c.finish(strings.TrimSuffix(name, keeper.EndMark))
			case strings.HasSuffix(name, keeper.InputEnd):
				c.endInput(strings.TrimSuffix(name, keeper.InputEnd))
			case mask&syscall.IN_ISDIR != 0:
				c.open(name)
			}
		})
	}
}

// scan brings the collector in line with the folder, whatever it missed.
func (c *collector) scan() {
	entries, err := os.ReadDir(c.dir.Logs())
	if err != nil {
		say("list the output: " + err.Error())
		return
	}
	found := map[string]bool{}
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			found[e.Name()] = true
			c.open(e.Name())
		}
	}
	for id := range c.sinks {
		if !found[id] {
			c.forget(id)
		}
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), keeper.InputEnd); ok {
			c.endInput(id)
		}
		if id, ok := strings.CutSuffix(e.Name(), keeper.EndMark); ok {
			c.finish(id)
		}
	}
}

// open starts to read a container's output.
func (c *collector) open(id string) {
	dir := c.dir.LogDir(id)
	if c.sinks[id] != nil || exists(dir+"/"+keeper.ClosedAt) {
		return
	}
	s := newSink(dir)
	if err := c.openInput(s, id); err != nil {
		say("open the input of " + id + ": " + err.Error())
		c.close(s)
		return
	}
	if s.terminal {
		c.sinks[id] = s
		touch(dir + "/" + keeper.OpenedAt)
		return
	}
	for i, name := range []string{keeper.PipeOut, keeper.PipeErr} {
		fd, err := syscall.Open(dir+"/"+name, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
		if err == nil {
			_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), setPipeSize, pipeSize) //nolint:gosec // as large as we may
			s.pipes[i] = fd
			err = c.poll1(fd)
		}
		if err != nil {
			say("open the output of " + id + ": " + err.Error())
			c.close(s)
			return
		}
		c.pipes[int32(fd)] = s //nolint:gosec // small
	}
	c.sinks[id] = s
	touch(dir + "/" + keeper.OpenedAt)
}

// finish reads what is left of a container's output and closes it.
func (c *collector) finish(id string) {
	dir := c.dir.LogDir(id)
	if s := c.sinks[id]; s != nil {
		for _, fd := range s.pipes {
			for fd >= 0 && c.move(s, fd) {
			}
		}
		s.settle()
		c.close(s)
		delete(c.sinks, id)
	}
	if exists(dir) {
		_ = os.Remove(dir + "/" + keeper.PipeOut)
		_ = os.Remove(dir + "/" + keeper.PipeErr)
		_ = os.Remove(dir + "/" + keeper.Input)
		_ = os.Remove(dir + "/" + keeper.Console)
		touch(dir + "/" + keeper.ClosedAt)
	}
	_ = os.Remove(dir + keeper.InputEnd)
	_ = os.Remove(dir + keeper.EndMark)
}

func (c *collector) forget(id string) {
	if s := c.sinks[id]; s != nil {
		c.close(s)
		delete(c.sinks, id)
	}
}

func (c *collector) close(s *sink) {
	for _, fd := range s.pipes {
		if fd >= 0 {
			delete(c.pipes, int32(fd)) //nolint:gosec // small
			_ = syscall.Close(fd)
		}
	}
	c.closeInput(s)
	s.close()
}

// move moves one frame's worth, and says whether there was any.
func (c *collector) move(s *sink, fd int) bool {
	n, err := syscall.Read(fd, c.buf[keeper.HeaderLen:keeper.HeaderLen+s.chunk])
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || n <= 0 {
		return false
	}
	stream := keeper.Stdout
	if fd == s.pipes[1] {
		stream = keeper.Stderr
	}
	keeper.Header{Stream: stream, Len: n, Time: time.Now().UnixNano()}.Put(c.buf)
	s.write(c.buf[:keeper.HeaderLen+n])
	return true
}

func touch(path string) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			say(err.Error())
		}
		return
	}
	_ = f.Close()
}
