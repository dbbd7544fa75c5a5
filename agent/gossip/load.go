package gossip

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
)

// A Sampler measures this machine's load from its proc file system.
type Sampler struct {
	proc fs.FS
	disk func() (used, total uint64, err error)

	mu         sync.Mutex
	busy, idle uint64 // ticks of all cores at the last look
	last       Load
}

// NewSampler reads from proc (os.DirFS("/proc") on a real machine); disk tells
// the bytes of the file system that holds the data directory.
func NewSampler(proc fs.FS, disk func() (used, total uint64, err error)) *Sampler {
	return &Sampler{proc: proc, disk: disk}
}

// Sample returns the load now: CPU as the mean since the call before. What
// cannot be read keeps its value of the call before, and the error says so.
// It reads six small files, about 0.1 ms.
func (s *Sampler) Sample() (Load, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.last
	var first error
	for _, step := range []func(*Load) error{s.cpu, s.memory, s.loadavg, s.space} {
		if err := step(&l); err != nil && first == nil {
			first = err
		}
	}
	l.Pressure = s.pressure()
	s.last = l
	return l, first
}

func (s *Sampler) cpu(l *Load) error {
	data, err := fs.ReadFile(s.proc, "stat")
	if err != nil {
		return fmt.Errorf("read processor time: %w", err)
	}
	var busy, idle uint64
	var cores uint32
	for line := range bytes.Lines(data) {
		fields := bytes.Fields(line)
		if len(fields) < 6 || !bytes.HasPrefix(fields[0], []byte("cpu")) {
			break // the cpu lines come first
		}
		if len(fields[0]) > len("cpu") {
			cores++
			continue
		}
		for i, f := range fields[1:min(9, len(fields))] { // guest time is in user time already
			ticks, _ := strconv.ParseUint(string(f), 10, 64)
			if i == 3 || i == 4 { // idle, iowait
				idle += ticks
			} else {
				busy += ticks
			}
		}
	}
	if s.busy+s.idle > 0 && busy >= s.busy && idle >= s.idle && busy+idle > s.busy+s.idle {
		l.CPU = permille(busy-s.busy, busy-s.busy+idle-s.idle)
	}
	s.busy, s.idle, l.Cores = busy, idle, cores
	return nil
}

func (s *Sampler) memory(l *Load) error {
	data, err := fs.ReadFile(s.proc, "meminfo")
	if err != nil {
		return fmt.Errorf("read memory: %w", err)
	}
	var total, available uint64 // KiB
	for line := range bytes.Lines(data) {
		fields := bytes.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch string(fields[0]) {
		case "MemTotal:":
			total, _ = strconv.ParseUint(string(fields[1]), 10, 64)
		case "MemAvailable:":
			available, _ = strconv.ParseUint(string(fields[1]), 10, 64)
		}
		if total > 0 && available > 0 {
			break
		}
	}
	l.Memory = permille(total-min(available, total), total)
	l.MemoryMB = clamp32(total / 1024)
	return nil
}

func (s *Sampler) loadavg(l *Load) error {
	data, err := fs.ReadFile(s.proc, "loadavg")
	if err != nil {
		return fmt.Errorf("read load average: %w", err)
	}
	word, _, _ := bytes.Cut(data, []byte(" "))
	l.Load1 = uint32(parseHundredths(word))
	return nil
}

func (s *Sampler) space(l *Load) error {
	if s.disk == nil {
		return nil
	}
	used, total, err := s.disk()
	if err != nil {
		return fmt.Errorf("measure disk: %w", err)
	}
	l.Disk, l.DiskMB = permille(used, total), clamp32(total>>20)
	return nil
}

// pressure is the zero value on a kernel without pressure stall information.
func (s *Sampler) pressure() Pressure {
	var p Pressure
	for file, to := range map[string]*Permille{"cpu": &p.CPU, "memory": &p.Memory, "io": &p.IO} {
		data, err := fs.ReadFile(s.proc, "pressure/"+file)
		if err != nil {
			continue
		}
		// some avg10=0.12 avg60=…
		if _, rest, ok := bytes.Cut(data, []byte("some avg10=")); ok {
			word, _, _ := bytes.Cut(rest, []byte(" "))
			*to = Permille(min(parseHundredths(word)/10, 1000))
			p.Known = true
		}
	}
	return p
}

// parseHundredths reads "1.23" as 123; what is no number is 0.
func parseHundredths(word []byte) uint64 {
	f, err := strconv.ParseFloat(string(bytes.TrimSpace(word)), 64)
	if err != nil || !(f > 0) {
		return 0
	}
	return uint64(min(f, 1e7)*100 + 0.5)
}

func permille(part, whole uint64) Permille {
	if whole == 0 {
		return 0
	}
	return Permille(min(float64(part)/float64(whole)*1000+0.5, 1000))
}

func clamp32(x uint64) uint32 { return uint32(min(x, 1<<32-1)) }
