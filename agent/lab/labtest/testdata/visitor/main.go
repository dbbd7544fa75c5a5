// Package main is the program of an image that the tests make and import.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	switch verb := os.Args[1]; verb {
	case "eat":
		eat(os.Args[2])
	case "grpc":
		health(os.Args[2])
	case "size":
		size()
	default:
		fmt.Fprintln(os.Stderr, "visitor eat MB | grpc STATUS | size")
		os.Exit(2)
	}
}

// eat takes so many megabytes of memory and keeps them.
func eat(megabytes string) {
	n, err := strconv.Atoi(megabytes)
	if err != nil {
		os.Exit(2)
	}
	var kept [][]byte
	for range n {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = byte(i)
		}
		kept = append(kept, b)
		time.Sleep(time.Millisecond)
	}
	fmt.Println("ate", len(kept))
	time.Sleep(time.Hour)
}

// health answers every question about health with a status: 1 is serving.
func health(status string) {
	n, err := strconv.Atoi(status)
	if err != nil {
		os.Exit(2)
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := http.Server{Addr: ":9000", Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		question, err := io.ReadAll(r.Body)
		fmt.Printf("%s %s %q %v\n", r.Method, r.URL.Path, question, err)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write([]byte{0, 0, 0, 0, 2, 8, byte(n)})
		w.Header().Set("Grpc-Status", "0")
	})}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}

// size prints the size of its terminal, and again whenever that changes, to the
// end of its input.
func size() {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	for {
		s, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%dx%d\n", s.Col, s.Row)
		select {
		case <-changes:
		case <-ended:
			os.Exit(42)
		}
	}
}
