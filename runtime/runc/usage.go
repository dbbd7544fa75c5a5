package runc

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skein-dev/skein/runtime/container"
)

// A meter keeps the files open by which a container's use is read: opening them
// each time would cost three times as much.
type meter struct {
	unified bool
	files   [4]*os.File // memory, its details, CPU, processes
	buf     [8 << 10]byte
}

func (m *meter) close() {
	if m == nil {
		return
	}
	for _, f := range m.files {
		if f != nil {
			_ = f.Close()
		}
	}
}

func openMeter(c *cgroups, group string) (*meter, error) {
	names := [4][2]string{
		{"memory", "memory.usage_in_bytes"}, {"memory", "memory.stat"}, {"cpuacct", "cpuacct.usage"}, {"pids", "pids.current"},
	}
	if c.unified {
		names = [4][2]string{{"", "memory.current"}, {"", "memory.stat"}, {"", "cpu.stat"}, {"", "pids.current"}}
	}
	m := &meter{unified: c.unified}
	for i, name := range names {
		f, err := os.Open(c.file(group, name[0], name[1]))
		if err != nil {
			m.close()
			return nil, err
		}
		m.files[i] = f
	}
	return m, nil
}

// read reads one file from its beginning.
func (m *meter) read(i int) (string, error) {
	raw, err := m.files[i].SyscallConn()
	if err != nil {
		return "", err
	}
	var n int
	// Not File.ReadAt: it asks again for an end that the kernel has given.
	if e := raw.Control(func(fd uintptr) { n, err = unix.Pread(int(fd), m.buf[:], 0) }); e != nil || err != nil { //nolint:gosec // small
		return "", errors.Join(e, err)
	}
	return string(m.buf[:n]), nil
}

func (m *meter) usage() (u container.Usage, err error) {
	var text [4]string
	for i := range m.files {
		if text[i], err = m.read(i); err != nil {
			return u, err
		}
	}
	return parseUsage(text, m.unified), nil
}

// parseUsage reads what the four files of a meter hold. Of the memory, pages of
// files that were not touched lately are not counted: the kernel drops them as
// soon as it wants.
func parseUsage(text [4]string, unified bool) container.Usage {
	number := func(s string) int64 {
		n, _ := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
		return n
	}
	u := container.Usage{MemoryBytes: number(text[0]), PIDs: number(text[3])}
	if unified {
		u.CPU = time.Duration(field(text[2], "usage_usec")) * time.Microsecond
		u.MemoryBytes -= field(text[1], "inactive_file")
	} else {
		u.CPU = time.Duration(number(text[2]))
		u.MemoryBytes -= field(text[1], "total_inactive_file")
	}
	u.MemoryBytes = max(u.MemoryBytes, 0)
	return u
}

// Usage reports what the running containers use now. One that ends meanwhile is
// left out.
func (d *Driver) Usage(ctx context.Context) ([]container.Usage, error) {
	var out []container.Usage
	for _, b := range d.all() {
		u, err := d.usage(b)
		if err == nil {
			u.ID = b.id
			out = append(out, u)
		}
	}
	return out, ctx.Err()
}

var errEnded = errors.New("it has ended")

func (d *Driver) usage(b *box) (u container.Usage, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.exit != nil || b.pidfd == nil {
		return u, errEnded
	}
	if b.meter == nil {
		if b.meter, err = openMeter(d.groups, d.cgroup(b.id)); err != nil {
			return u, err
		}
	}
	return b.meter.usage()
}
