// Command prog is what tests run in containers: words that do one thing each,
// one after the other, with ";" between them.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

func main() {
	var word []string
	for _, arg := range append(os.Args[1:], ";") {
		if arg != ";" {
			word = append(word, arg)
			continue
		}
		if len(word) > 0 {
			do(word[0], word[1:])
		}
		word = nil
	}
}

func do(word string, args []string) {
	arg := ""
	if len(args) > 0 {
		arg = args[0]
	}
	number, _ := strconv.Atoi(arg)
	switch word {
	case "exit":
		os.Exit(number)
	case "say":
		fmt.Println(strings.Join(args, " "))
	case "mumble": // without a newline
		fmt.Print(strings.Join(args, " "))
	case "shout":
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	case "count":
		out := bufio.NewWriter(os.Stdout)
		for i := range number {
			fmt.Fprintln(out, i)
		}
		_ = out.Flush()
	case "sleep": // until SIGTERM
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("sleeping")
		<-c
	case "stubborn": // until SIGKILL
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("stubborn")
		_ = syscall.Pause()
		select {}
	case "heed": // until that signal
		signal.Ignore(syscall.SIGTERM)
		c := make(chan os.Signal, 1)
		signal.Notify(c, map[string]os.Signal{"SIGQUIT": syscall.SIGQUIT, "SIGUSR1": syscall.SIGUSR1}[arg])
		fmt.Println("heeding")
		<-c
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "lines": // echoes lines as they come
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			fmt.Println("got " + in.Text())
		}
	case "serve":
		l, err := net.Listen("tcp", arg)
		check(err)
		fmt.Println("serving")
		go func() {
			for {
				c, err := l.Accept()
				check(err)
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
	case "dial":
		c, err := net.Dial("tcp", arg)
		check(err)
		_, _ = io.Copy(os.Stdout, c)
		fmt.Println()
	case "spawn": // a child that stays
		p, err := os.StartProcess("/proc/self/exe", append([]string{"prog"}, args...), &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
		check(err)
		fmt.Println("spawned", p.Pid)
	case "pid":
		fmt.Println("pid", os.Getpid())
	case "namespace": // of oneself, of a kind
		at, err := os.Readlink("/proc/self/ns/" + arg)
		check(err)
		fmt.Println(at)
	case "ps": // all but oneself, by their words
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		check(err)
		for _, path := range lines {
			text, err := os.ReadFile(path)
			if err == nil && !strings.HasPrefix(path, "/proc/"+strconv.Itoa(os.Getpid())+"/") {
				fmt.Println(strings.ReplaceAll(strings.TrimRight(string(text), "\x00"), "\x00", " "))
			}
		}
	case "kill": // a signal by its number, to a process
		_, pid, _ := strings.Cut(strings.Join(args, " "), " ")
		n, err := strconv.Atoi(pid)
		check(err)
		if err := syscall.Kill(n, syscall.Signal(number)); err != nil {
			fmt.Println("kill:", err)
			return
		}
		fmt.Println("sent", number)
	case "fork": // so many children, as far as they can be had
		n, err := strconv.Atoi(arg)
		check(err)
		forked := 0
		for range n {
			pid, _, e := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
			for pid == 0 && e == 0 { // it waits for ever
				_, _, _ = syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
			}
			if e == 0 {
				forked++
			}
		}
		fmt.Println("forked", forked)
	case "burn": // CPU, so many million rounds
		x := uint64(1)
		for range number * 1_000_000 {
			x = x*6364136223846793005 + 1
		}
		fmt.Println("burnt", x != 0)
	case "eat": // so many MiB
		var kept [][]byte
		for range number {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			kept = append(kept, b)
		}
		fmt.Println("ate", len(kept))
	default:
		look(word, strings.Join(args, " "), arg, number)
	}
}

// look has the words that tell what a container sees.
func look(word, rest, arg string, number int) {
	switch word {
	case "hostname":
		name, err := os.Hostname()
		check(err)
		fmt.Println(name)
	case "env":
		fmt.Println(os.Getenv(arg))
	case "id":
		groups, _ := os.Getgroups()
		fmt.Println(os.Getuid(), os.Getgid(), groups)
	case "status": // of oneself, one field
		text, err := os.ReadFile("/proc/self/status")
		check(err)
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, arg+":"); ok {
				fmt.Println(arg, strings.TrimSpace(rest))
			}
		}
	case "limit": // of oneself, one line of them
		text, err := os.ReadFile("/proc/self/limits")
		check(err)
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, rest) {
				fmt.Println(strings.Join(strings.Fields(line), " "))
			}
		}
	case "read":
		text, err := os.ReadFile(arg)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(strings.TrimSpace(string(text)))
	case "open": // "r" or "rw", and a path
		path := strings.TrimPrefix(strings.TrimPrefix(rest, "rw "), "r ")
		flags := os.O_RDONLY | syscall.O_NONBLOCK
		if arg == "rw" {
			flags = os.O_RDWR | syscall.O_NONBLOCK
		}
		if _, err := os.OpenFile(path, flags, 0); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("opened", path)
	case "mknod": // a character device
		var path string
		var major, minor int
		_, err := fmt.Sscan(rest, &path, &major, &minor)
		check(err)
		if err := syscall.Mknod(path, syscall.S_IFCHR|0o666, major<<8|minor); err != nil {
			fmt.Println("mknod", path, err)
			return
		}
		fmt.Println("made", path)
	case "write":
		if err := os.WriteFile(arg, []byte("written"), 0o644); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println("wrote", arg)
	case "leave": // a text in a file
		path, text, _ := strings.Cut(rest, " ")
		check(os.WriteFile(path, []byte(text), 0o644))
	case "grow": // a file by so many KiB, and a last word
		path, n, _ := strings.Cut(rest, " ")
		kib, _ := strconv.Atoi(n)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		check(err)
		for range kib {
			if _, err := f.Write(make([]byte, 1024)); err != nil {
				fmt.Println(err)
				return
			}
		}
		_, err = f.WriteString("the last word")
		check(err)
	case "pwd":
		dir, err := os.Getwd()
		check(err)
		fmt.Println(dir)
	case "fds": // those that were there before this program opened any
		entries, err := filepath.Glob("/proc/self/fd/*")
		check(err)
		for _, e := range entries {
			to, err := os.Readlink(e)
			own := strings.HasPrefix(to, "anon_inode:[event") || strings.Contains(to, "/proc/") || strings.HasPrefix(to, "/sys/fs/cgroup/cpu")
			if err == nil && !own {
				fmt.Println(filepath.Base(e), to)
			}
		}
	case "size": // of the terminal, after so many changes of it
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGWINCH)
		fmt.Println("ready")
		for range number {
			<-c
		}
		var size struct{ rows, columns, x, y uint16 }
		_, _, e := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
		fmt.Println(size.columns, size.rows, e == 0)
	default:
		fmt.Fprintln(os.Stderr, "no such word:", word)
		os.Exit(64)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(65)
	}
}
