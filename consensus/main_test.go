package consensus

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"
)

// TestMain fails if anything that a test started still runs after all of them.
// Those in bubbles are checked one by one anyway.
func TestMain(m *testing.M) {
	if work := os.Getenv(powerWork); work != "" {
		powerWorks[work](os.Getenv(powerDir))
		os.Exit(0)
	}
	before := runtime.NumGoroutine()
	code := m.Run()
	if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
		os.Exit(code) // the fuzzer leaves a goroutine that waits for signals
	}
	for begin := time.Now(); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Since(begin) > 10*time.Second {
			fmt.Fprintf(os.Stderr, "%d goroutines are left, %d were there before:\n", runtime.NumGoroutine(), before)
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			os.Exit(1)
		}
	}
	os.Exit(code)
}
