package keeper

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// MaxLine is the longest line given in one piece, in bytes.
const MaxLine = 16 << 10

// A Line is one line of output without its newline, or a piece of a long one.
type Line struct {
	Time    time.Time
	Stream  byte
	Partial bool   // goes on in the stream's next Line
	Text    []byte // valid until the callback returns
}

// ReadOptions choose what of a container's output to read.
type ReadOptions struct {
	Since  time.Time // zero: from the first that is kept
	Tail   int64     // last lines only; -1: all
	Follow bool      // until the keeper has closed the output and all was read
}

// ReadLog calls each for the lines of a container's output. It returns when all
// was read, with the error of each, or with that of ctx.
func (d Dir) ReadLog(ctx context.Context, id string, opt ReadOptions, each func(Line) error) error {
	r := &reader{ctx: ctx, dir: d.LogDir(id), since: opt.Since}
	defer r.close()
	var err error
	if r.watch, err = NewWatch(r.dir, watched); err != nil {
		return err
	}
	closed := exists(filepath.Join(r.dir, ClosedAt))
	files, err := r.open()
	if err != nil {
		return err
	}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	skip, err := r.skip(files, opt)
	if err != nil {
		return err
	}
	var starts starts
	lines := newAssembler(func(l Line) error {
		if starts.take(l) <= skip {
			return nil
		}
		return each(l)
	})
	for _, f := range files {
		r.now = cursor{file: f}
		if err := r.read(&r.now, size(f), lines.add); err != nil {
			return err
		}
	}
	if opt.Follow {
		if err := r.follow(closed, lines.add); err != nil {
			return err
		}
		closed = true
	}
	return lines.flush(!closed)
}

// A taker is given what one read of a stream gave, valid until it returns.
type taker func(stream byte, t time.Time, data []byte) error

// FollowLog calls each for a container's output as it was written, whole lines
// or not, until the keeper has closed it and all was read: from the first that
// is kept, or else from what is written from now on.
func (d Dir) FollowLog(ctx context.Context, id string, from LogStart, each func(stream byte, t time.Time, data []byte) error) error {
	r := &reader{ctx: ctx, dir: d.LogDir(id)}
	defer r.close()
	var err error
	if r.watch, err = NewWatch(r.dir, watched); err != nil {
		return err
	}
	closed := exists(filepath.Join(r.dir, ClosedAt))
	files, err := r.open()
	if err != nil {
		return err
	}
	for i, f := range files {
		last := i == len(files)-1
		c := cursor{file: f}
		if from == FromNow {
			c.off = size(f)
		}
		if last {
			r.now = c // and closed with the reader
			break
		}
		err = errors.Join(err, r.read(&c, size(f), each), f.Close())
	}
	if err != nil {
		return err
	}
	return r.follow(closed, each)
}

// LogStart is where to begin to follow.
type LogStart int

// The first that is kept, or what comes from now on.
const (
	FromFirst LogStart = iota
	FromNow
)

const watched = syscall.IN_MODIFY | syscall.IN_CREATE | syscall.IN_MOVED_TO | syscall.IN_MOVE_SELF | syscall.IN_DELETE_SELF

// A reader reads the two files of one container's output.
type reader struct {
	ctx   context.Context //nolint:containedctx // lives as long as one call of ReadLog
	dir   string
	since time.Time
	watch *Watch
	now   cursor // in the newer file
}

func (r *reader) close() {
	if r.watch != nil {
		_ = r.watch.Close()
	}
	if r.now.file != nil {
		_ = r.now.file.Close()
	}
}

// open opens the files, the older first. A rotation in between is seen by the
// newer one no longer being the newer.
func (r *reader) open() ([]*os.File, error) {
	for {
		now, err := os.Open(filepath.Join(r.dir, LogNow))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		old, err := os.Open(filepath.Join(r.dir, LogOld))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			_ = now.Close()
			return nil, err
		}
		switch {
		case now == nil && old == nil:
			return nil, nil
		case now == nil:
			return []*os.File{old}, nil
		case old == nil && same(now, filepath.Join(r.dir, LogNow)):
			return []*os.File{now}, nil
		case old != nil && same(now, filepath.Join(r.dir, LogNow)):
			return []*os.File{old, now}, nil
		}
		_ = now.Close()
		_ = old.Close()
	}
}

// skip counts how many lines to leave out so that Tail lines remain.
func (r *reader) skip(files []*os.File, opt ReadOptions) (int64, error) {
	if opt.Tail < 0 {
		return 0, nil
	}
	var starts starts
	count := newAssembler(func(l Line) error { starts.take(l); return nil })
	for _, f := range files {
		if err := r.read(&cursor{file: f}, size(f), count.add); err != nil {
			return 0, err
		}
	}
	if err := count.flush(true); err != nil {
		return 0, err
	}
	return max(starts.n-opt.Tail, 0), nil
}

// starts numbers lines, from 1, by where they begin: a long one comes in pieces,
// and those of the other stream may stand between.
type starts struct {
	n    int64
	open [Lost]int64 // by stream, less one: the line that goes on; 0: none
}

// take is the number of the line that a piece belongs to.
func (s *starts) take(l Line) int64 {
	open := &s.open[l.Stream-1]
	of := *open
	if of == 0 {
		s.n++
		of = s.n
	}
	if *open = 0; l.Partial {
		*open = of
	}
	return of
}

// read feeds the frames before end; end < 0 is all there are.
func (r *reader) read(c *cursor, end int64, to taker) error {
	for end < 0 || c.off < end {
		h, data, err := c.next()
		if errors.Is(err, io.EOF) {
			return r.ctx.Err()
		}
		if err != nil {
			return err
		}
		if t := time.Unix(0, h.Time); !t.Before(r.since) {
			if err := to(h.Stream, t, data); err != nil {
				return err
			}
		}
	}
	return r.ctx.Err()
}

// While a container writes all the time its output is looked at so often. What
// comes after a silence is given at once.
const (
	lookAgain = 10 * time.Millisecond
	silence   = 50 * time.Millisecond
)

// follow reads on until the output is closed or its folder is gone. It asks
// whether it is closed before it reads, so nothing written before that is missed.
func (r *reader) follow(closed bool, to taker) error {
	var last time.Time
	for {
		if err := r.advance(to); err != nil {
			return err
		}
		if closed || !exists(r.dir) {
			return nil
		}
		if err := r.watch.Wait(r.ctx); err != nil {
			return err
		}
		if time.Since(last) < silence {
			if err := r.pause(lookAgain); err != nil {
				return err
			}
		}
		last = time.Now()
		closed = exists(filepath.Join(r.dir, ClosedAt))
	}
}

func (r *reader) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-t.C:
		return nil
	}
}

// advance reads to the end of the newest file, through a rotation where there
// was one.
func (r *reader) advance(to taker) error {
	for {
		rotated := r.now.file == nil || !same(r.now.file, filepath.Join(r.dir, LogNow))
		if r.now.file != nil {
			if err := r.read(&r.now, -1, to); err != nil {
				return err
			}
		}
		if !rotated {
			return nil
		}
		files, err := r.open()
		if err != nil || len(files) == 0 {
			return err
		}
		if len(files) == 2 && r.now.file != nil && sameFile(files[0], r.now.file) {
			_ = files[0].Close() // read to its end above
			files = files[1:]
		}
		if len(files) == 1 && r.now.file != nil && sameFile(files[0], r.now.file) {
			_ = files[0].Close() // rotated away, and the next one is not there yet
			return nil
		}
		if r.now.file != nil {
			_ = r.now.file.Close()
		}
		r.now = cursor{file: files[0]}
		for _, f := range files[1:] {
			_ = f.Close() // comes again as the next one
		}
	}
}

func size(f *os.File) int64 {
	if info, err := f.Stat(); err == nil {
		return info.Size()
	}
	return 0
}

func same(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

func sameFile(f, g *os.File) bool {
	a, err1 := f.Stat()
	b, err2 := g.Stat()
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// A cursor reads frames from one file. What is no frame, as a loss of power can
// leave behind, is passed over.
type cursor struct {
	file *os.File
	off  int64  // of buf in the file
	buf  []byte // read ahead
	mem  []byte
}

// next gives the next whole frame, or io.EOF while there is none yet.
func (c *cursor) next() (Header, []byte, error) {
	for {
		if err := c.want(HeaderLen); err != nil {
			return Header{}, nil, err
		}
		h, ok := parseHeader(c.buf)
		if ok {
			end := HeaderLen + h.Len
			if err := c.want(end); err != nil {
				return Header{}, nil, err
			}
			if err := c.want(end + HeaderLen); err != nil && !errors.Is(err, io.EOF) {
				return Header{}, nil, err
			}
			if borders(c.buf[end:min(len(c.buf), end+HeaderLen)]) {
				data := c.buf[HeaderLen:end]
				c.drop(end)
				return h, data, nil
			}
		}
		i := bytes.IndexByte(c.buf[1:], magic0)
		if i < 0 {
			i = len(c.buf) - 1
		}
		c.drop(i + 1)
	}
}

// borders says that a frame may end before these bytes: at the next one, at
// zeroes never written, or at the end of the file. A frame cut short would take
// the head of the next one as its data.
func borders(after []byte) bool {
	return bytes.HasPrefix(after, magic[:min(len(after), len(magic))]) || bytes.Equal(after, zeroes[:len(after)])
}

var (
	magic  = []byte{magic0, magic1, magic2}
	zeroes [HeaderLen]byte
)

func (c *cursor) drop(n int) {
	c.buf = c.buf[n:]
	c.off += int64(n)
}

// want sees to n bytes in buf.
func (c *cursor) want(n int) error {
	if len(c.buf) >= n {
		return nil
	}
	if c.mem == nil {
		c.mem = make([]byte, 2*(HeaderLen+MaxFrame))
	}
	have := copy(c.mem, c.buf)
	got, err := c.file.ReadAt(c.mem[have:], c.off+int64(have))
	c.buf = c.mem[:have+got]
	if len(c.buf) >= n {
		return nil
	}
	if err == nil {
		err = io.EOF
	}
	return err
}
