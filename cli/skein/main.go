// Command skein is what a person types to see and change a cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/skein-dev/skein/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends us at once
	os.Exit(cli.Run(ctx, os.Args[1:], cli.Console{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
