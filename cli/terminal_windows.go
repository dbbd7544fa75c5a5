package cli

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// enableEscapes asks the console to obey escape sequences instead of showing
// them. An old one that cannot stays as it is.
func enableEscapes(files ...*os.File) {
	for _, file := range files {
		handle := windows.Handle(file.Fd())
		var mode uint32
		if windows.GetConsoleMode(handle, &mode) == nil {
			_ = windows.SetConsoleMode(handle, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING)
		}
	}
}

// resized signals on the channel that it returns whenever the terminal may have
// another size, until ctx ends. Windows sends no signal, so it is often in vain.
func resized(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				select {
				case changed <- struct{}{}:
				default: // one is waiting already
				}
			}
		}
	}()
	return changed
}
