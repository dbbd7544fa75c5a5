// Package main is the program of the demo images: a small web server that shows
// which version of it answers, from which Pod and node, and that can be made to
// burn, fail and exit. Its image holds nothing else, no shell either, so it
// also has the few commands that one would try inside a container.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := context.Background(), func() {}
	if heeds(os.Args[1:]) {
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	}
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// heeds tells whether a command ends by itself when it is asked to. All others
// die of the signal: one that reads a terminal would not notice.
func heeds(args []string) bool {
	return len(args) == 0 || args[0] == "serve" || args[0] == "sleep" || args[0] == "count" || args[0] == "get"
}

// usage lists the commands.
const usage = `demo [serve]           web server on $PORT (8080): / /healthz /burn?ms=N /fail?for=N /exit?code=N
demo sleep [SECONDS]   until SIGTERM, or for so long
demo exit [CODE]       at once
demo print WORD...     a line
demo count N RATE      lines numbered from 1, so many a second
demo echo              each line of input back; ends with it, exit code 5
demo env               the environment
demo cat FILE...       files
demo get URL           fetch, print the body; exit 1 unless the status is 2xx
`

// run is the program, with the arguments after its name. It returns the exit code.
func run(ctx context.Context, args []string) int {
	verb := "serve"
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	var err error
	switch verb {
	case "serve":
		err = serve(ctx, log.New(os.Stdout, "", log.LstdFlags|log.LUTC))
	case "sleep":
		err = sleep(ctx, args)
	case "exit":
		if len(args) == 0 {
			return 0
		}
		code, err := strconv.Atoi(args[0])
		if err != nil {
			return 2
		}
		return code
	case "print":
		fmt.Println(strings.Join(args, " "))
	case "count":
		err = count(ctx, args)
	case "echo":
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			fmt.Println("got " + in.Text())
		}
		return 5
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "cat":
		err = cat(args)
	case "get":
		err = get(ctx, args)
	default:
		fmt.Fprint(os.Stderr, usage)
		return 2
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return 0
}

// count writes numbered lines, each by itself, at a steady rate.
func count(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("count what, and how many a second?")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(args[1])
	if err != nil || rate < 1 {
		return errors.New("how many a second?")
	}
	begin := time.Now()
	for i := 1; i <= n; i++ {
		due := begin.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if wait := time.Until(due); wait > 5*time.Millisecond {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
		if _, err := os.Stdout.WriteString("line " + strconv.Itoa(i) + "\n"); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, args []string) error {
	if len(args) > 0 {
		n, err := strconv.ParseFloat(args[0], 64)
		if err != nil {
			return fmt.Errorf("%q is no number of seconds", args[0])
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(n*float64(time.Second)))
		defer cancel()
	}
	<-ctx.Done()
	return nil
}

func cat(names []string) error {
	var errs []error
	for _, name := range names {
		f, err := os.Open(name)
		if err == nil {
			_, err = io.Copy(os.Stdout, f)
			err = errors.Join(err, f.Close())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// getTimeout is how long one fetch may take.
const getTimeout = 10 * time.Second

func get(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("get takes one URL")
	}
	ctx, cancel := context.WithTimeout(ctx, getTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return errors.New(res.Status)
	}
	return nil
}
