package runc

import (
	"syscall"
	"testing"
)

func TestParseSignal(t *testing.T) {
	tests := map[string]syscall.Signal{
		"": syscall.SIGTERM, "SIGQUIT": syscall.SIGQUIT, "quit": syscall.SIGQUIT, "3": syscall.SIGQUIT, "SIGWINCH": syscall.SIGWINCH,
		"SIGRTMIN+3": 37, "RTMIN": 34, "SIGRTMAX-1": 63, "SIGRTMAX": 64,
		"0": syscall.SIGTERM, "65": syscall.SIGTERM, "-9": syscall.SIGTERM, "SIGRTMIN+99": syscall.SIGTERM, "SIGRTMAX+1": syscall.SIGTERM, "NONE": syscall.SIGTERM,
	}
	for name, want := range tests {
		if got := parseSignal(name); got != want {
			t.Errorf("%q: got %d, want %d", name, got, want)
		}
	}
}
