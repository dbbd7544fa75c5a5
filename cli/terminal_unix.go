//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// enableEscapes is for consoles that must be asked to obey escape sequences;
// those of Unix always do.
func enableEscapes(...*os.File) {}

// resized signals on the channel that it returns whenever the terminal may have
// another size, until ctx ends.
func resized(ctx context.Context) <-chan struct{} {
	signals := make(chan os.Signal, 1)
	changed := make(chan struct{}, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(signals)
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
				select {
				case changed <- struct{}{}:
				default: // one is waiting already; the reader asks for the size itself
				}
			}
		}
	}()
	return changed
}
