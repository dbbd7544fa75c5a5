package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/skein-dev/skein/runtime/keeper"
)

// A sink is the two files of one container's output.
type sink struct {
	dir   string
	pipes [2]int // stdout, stderr; -1 while closed
	input int    // stdin, held open; -1: none
	door  int    // the socket where the terminal is given, -1: none
	calls []int  // who has come to it and not yet given any

	terminal bool  // there is one, and it is pipes[0]
	quiet    bool  // nobody is at it, and it is only looked at when that changes
	half     int64 // bytes, of each file
	chunk    int   // bytes read at once, so that a frame fits well into a file
	file     int   // -1 while it could not be opened
	size     int64
	lost     int64 // bytes that could not be written since the last that could
}

func newSink(dir string) *sink {
	s := &sink{dir: dir, pipes: [2]int{-1, -1}, input: -1, door: -1, file: -1}
	limit := int64(keeper.DefaultLogLimit)
	if text, err := os.ReadFile(dir + "/" + keeper.LimitAt); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			limit = max(n, minLimit)
		}
	}
	s.half = limit / 2
	s.chunk = int(min(s.half/4, keeper.MaxFrame))
	s.open()
	return s
}

func (s *sink) open() {
	fd, err := syscall.Open(s.dir+"/"+keeper.LogNow, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_APPEND|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		_ = syscall.Close(fd)
		return
	}
	s.file, s.size = fd, stat.Size
}

func (s *sink) close() {
	if s.file >= 0 {
		_ = syscall.Close(s.file)
		s.file = -1
	}
}

// write keeps a frame or counts it as lost.
func (s *sink) write(frame []byte) {
	if s.file < 0 {
		s.open()
	}
	if s.size > 0 && s.size+int64(len(frame)) > s.half {
		s.rotate()
	}
	s.settle()
	if s.lost > 0 || !s.append(frame) {
		s.lost += int64(len(frame) - keeper.HeaderLen)
	}
}

// settle writes down how much was lost.
func (s *sink) settle() {
	if s.lost == 0 {
		return
	}
	frame := strconv.AppendInt(make([]byte, keeper.HeaderLen, keeper.HeaderLen+20), s.lost, 10)
	keeper.Header{Stream: keeper.Lost, Len: len(frame) - keeper.HeaderLen, Time: time.Now().UnixNano()}.Put(frame)
	if s.append(frame) {
		s.lost = 0
	}
}

// append writes a whole frame or nothing.
func (s *sink) append(frame []byte) bool {
	if s.file < 0 {
		return false
	}
	n, err := syscall.Write(s.file, frame)
	if n == len(frame) {
		s.size += int64(n)
		return true
	}
	if n > 0 || err != nil {
		_ = syscall.Ftruncate(s.file, s.size)
	}
	return false
}

// rotate makes room: the newer file takes the place of the older.
func (s *sink) rotate() {
	s.close()
	_ = os.Rename(s.dir+"/"+keeper.LogNow, s.dir+"/"+keeper.LogOld)
	s.size = 0
	s.open()
}

// keepOld is how long the older file of a container is kept that writes little.
const keepOld = 7 * 24 * time.Hour

// expire removes the older file once nothing in it is younger than keepOld.
func (s *sink) expire(now time.Time) {
	old := s.dir + "/" + keeper.LogOld
	if info, err := os.Lstat(old); err == nil && now.Sub(info.ModTime()) > keepOld {
		_ = os.Remove(old) // another time
	}
}
