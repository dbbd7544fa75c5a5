// Package main is the program of an image that the tests make and import.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
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
	case "long":
		long(os.Args[2])
	case "back":
		back(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "visitor eat MB | grpc STATUS | size | long MB | back ADDRESS")
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

// long writes one line of so many megabytes, slowly enough to be read on, and
// then a short one.
func long(megabytes string) {
	n, err := strconv.Atoi(megabytes)
	if err != nil {
		os.Exit(2)
	}
	time.Sleep(2 * time.Second) // somebody is to listen
	piece := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for range n {
		os.Stdout.Write(piece)
		time.Sleep(50 * time.Millisecond)
	}
	fmt.Println("\nthe end")
}

// back sends back what comes by each connection, and when that has ended says so.
func back(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			n, _ := io.Copy(c, c)
			fmt.Fprintf(c, "%d bytes came", n)
			c.Close()
		}()
	}
}
