package gossiptest

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// inbox holds what arrived at one end of a stream.
type inbox struct {
	mu    sync.Mutex
	data  []byte
	err   error // after data
	news  chan struct{}
	fatal bool // err counts at once, data is lost
}

func newInbox() *inbox { return &inbox{news: make(chan struct{})} }

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// wake is called with mu held.
func (i *inbox) wake() {
	close(i.news)
	i.news = make(chan struct{})
}

func (i *inbox) put(b []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err == nil {
		i.data = append(i.data, b...)
		i.wake()
	}
}

// end says that nothing more will come.
func (i *inbox) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err == nil {
		i.err = io.EOF
		i.wake()
	}
}

// fail breaks this end.
func (i *inbox) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.fatal {
		i.err, i.fatal = err, true
		i.wake()
	}
}

func (i *inbox) broken() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fatal {
		return i.err
	}
	return nil
}

// wakeUp makes whoever reads look again.
func (i *inbox) wakeUp() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wake()
}

func (i *inbox) read(b []byte, by *deadline, frozen func() bool) (int, error) {
	for {
		still := frozen()
		i.mu.Lock()
		switch {
		case still && !i.fatal: // it reads when it goes on
		case i.fatal:
			defer i.mu.Unlock()
			return 0, i.err
		case len(i.data) > 0:
			defer i.mu.Unlock()
			n := copy(b, i.data)
			i.data = i.data[n:]
			return n, nil
		case i.err != nil:
			defer i.mu.Unlock()
			return 0, i.err
		}
		news := i.news
		i.mu.Unlock()
		select {
		case <-news:
		case <-by.passed():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// deadline is a time that may be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{} // closed when it has passed; nil: never asked for or set
	done  bool
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over == nil {
		d.over = make(chan struct{})
	}
	return d.over
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.over == nil || d.done {
		d.over, d.done = make(chan struct{}), false
	}
	if t.IsZero() {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(max(time.Until(t), 0), func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer && !d.done {
			d.done = true
			close(d.over)
		}
	})
	d.timer = timer
}
