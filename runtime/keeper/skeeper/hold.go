package main

import (
	"syscall"
	"unsafe"
)

// hold is the first process of the namespace that a Pod's containers share: the
// namespace lasts as long as it does, whichever container ends. What is orphaned
// in it becomes its child, and the kernel reaps it. No signal from inside ends
// it: the kernel drops, for the first process of a namespace, whatever that has
// no handler for. It never returns.
func hold() {
	const (
		signals   = 64
		ignore    = 1  // SIG_IGN
		maskBytes = 8  // of the kernel's signal set
		actBytes  = 64 // more than any kernel's struct sigaction; all zero: SIG_DFL
	)
	for n := 1; n <= signals; n++ {
		var act [actBytes / 8]uint64
		if syscall.Signal(n) == syscall.SIGCHLD {
			act[0] = ignore // children are reaped unasked
		}
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(n), uintptr(unsafe.Pointer(&act)), 0, maskBytes, 0, 0) //nolint:gosec // as the kernel wants it
	}
	for {
		_ = syscall.Pause()
	}
}
