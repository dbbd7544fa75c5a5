package containertest

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/skein-dev/skein/runtime/container"
)

// Words is the program of the suite: a container's arguments, after the path of
// a program, are words that do one thing each, with ";" between them. Real
// drivers run a program that understands the same.
//
//	say TEXT       a line on stdout
//	shout TEXT     a line on stderr
//	mumble TEXT    on stdout, without a newline
//	count N        N lines, from 0
//	hostname       the host name, as a line
//	serve ADDRESS  answers TCP connections with "hello", from now on
//	cat            stdin to stdout
//	lines          each line of stdin to stdout, after "got "
//	sleep          says "sleeping", and ends on SIGTERM
//	stubborn       says "stubborn", and ends on SIGKILL
//	heed SIGNAL    says "heeding", and ends on that signal, not on SIGTERM
//	leave PATH TEXT  writes the text to a file
//	exit N         ends with exit code N
func Words(spec container.Spec) Process {
	p := Process{Exec: func(ctx context.Context, e container.ExecSpec) (int, error) { return execWords(ctx, spec, e) }}
	p.Usage = container.Usage{MemoryBytes: 1, PIDs: 1}
	for _, w := range split(spec.Args) {
		switch text := strings.Join(w[1:], " "); w[0] {
		case "serve":
			p.Dial = serve(text)
		case "sleep":
			p.Runs, p.Output = Forever, append(p.Output, container.LogLine{Text: []byte("sleeping")})
			return p
		case "lines":
			p.Runs, p.Echo = Forever, true
			return p
		case "stubborn":
			p.Runs, p.Stubborn, p.Output = Forever, true, append(p.Output, container.LogLine{Text: []byte("stubborn")})
			return p
		case "heed":
			p.Runs, p.Stubborn, p.Output = Forever, spec.StopSignal != text, append(p.Output, container.LogLine{Text: []byte("heeding")})
			return p
		case "exit":
			p.Code, _ = strconv.Atoi(text)
			return p
		case "shout":
			p.Output = append(p.Output, container.LogLine{Stderr: true, Text: []byte(text)})
		case "leave":
			if w[1] == spec.MessagePath {
				p.Message = strings.Join(w[2:], " ")
			}
		default:
			p.Output = append(p.Output, linesOf(spec, w)...)
		}
	}
	return p
}

func split(args []string) [][]string {
	var out [][]string
	var word []string
	for _, arg := range append(slices.Clone(args[1:]), ";") {
		if arg != ";" {
			word = append(word, arg)
		} else if len(word) > 0 {
			out, word = append(out, word), nil
		}
	}
	return out
}

// linesOf is what a word writes to stdout.
func linesOf(spec container.Spec, w []string) []container.LogLine {
	text := strings.Join(w[1:], " ")
	switch w[0] {
	case "say", "mumble":
		return []container.LogLine{{Text: []byte(text)}}
	case "hostname":
		return []container.LogLine{{Text: []byte(spec.Sandbox.Hostname)}}
	case "count":
		n, _ := strconv.Atoi(text)
		out := make([]container.LogLine, n)
		for i := range out {
			out[i].Text = []byte(strconv.Itoa(i))
		}
		return out
	}
	panic("no such word: " + w[0])
}

func serve(at string) func(string, string) (net.Conn, error) {
	return func(network, address string) (net.Conn, error) {
		if network != "tcp" || address != at {
			return nil, syscall.ECONNREFUSED
		}
		near, far := net.Pipe()
		return &greeting{Conn: near, far: far, text: strings.NewReader("hello")}, nil
	}
}

// greeting gives what the other end would have sent.
type greeting struct {
	net.Conn
	far  net.Conn
	text io.Reader
}

func (g *greeting) Read(b []byte) (int, error) { return g.text.Read(b) }

func (g *greeting) Close() error {
	_ = g.far.Close()
	return g.Conn.Close()
}

func execWords(ctx context.Context, spec container.Spec, e container.ExecSpec) (int, error) {
	write := func(w io.Writer, text []byte) {
		if w != nil {
			_, _ = w.Write(text)
		}
	}
	for _, w := range split(e.Args) {
		switch text := strings.Join(w[1:], " "); w[0] {
		case "exit":
			return strconv.Atoi(text)
		case "shout":
			write(e.Stderr, []byte(text+"\n"))
		case "mumble":
			write(e.Stdout, []byte(text))
		case "cat":
			if e.Stdin != nil && e.Stdout != nil {
				_, _ = io.Copy(e.Stdout, e.Stdin)
			}
		case "sleep", "stubborn":
			write(e.Stdout, fmt.Appendln(nil, map[string]string{"sleep": "sleeping"}[w[0]]))
			<-ctx.Done()
			return 0, ctx.Err()
		default:
			for _, l := range linesOf(spec, w) {
				write(e.Stdout, append(l.Text, '\n'))
			}
		}
	}
	return 0, nil
}
