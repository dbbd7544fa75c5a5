// Command skeeper is the keeper: the one process of a node that outlives its
// agents. It starts the agent and starts it again, reaps every orphan and keeps
// how it ended, moves the output of containers from FIFOs to disk, and ends
// the Pods whose lease has run out. It parses nothing and knows no network. What it writes, and how it is spoken to,
// is package keeper's.
//
//	skeeper KEEPER-DIR -- AGENT [ARG...]
//	skeeper hold
//
// The second is another program in the same file: the first process of a Pod
// whose containers share processes, see hold.
//
// SIGTERM stops the agent and then the keeper; containers run on. SIGHUP
// executes a new keeper in place, which goes on with the containers: what the
// file reload says, and then the agent is started anew as well, or else itself.
// An agent that says that it will never work, or that its node was removed,
// ends the keeper too, with a code of its own.
// Under a service manager it speaks sd_notify for the agent.
package main

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/skein-dev/skein/runtime/keeper"
)

// The agent is told when the thread that started it ends, so all is started,
// and executed in place, from the main thread.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) == 2 && os.Args[1] == keeper.HoldVerb {
		hold()
	}
	if len(os.Args) < 4 || os.Args[2] != "--" {
		say("usage: skeeper KEEPER-DIR -- AGENT [ARG...]")
		os.Exit(usageCode)
	}
	code, err := run(keeper.Dir(os.Args[1]), os.Args[3:])
	if err != nil {
		say(err.Error())
		code = 1
	}
	os.Exit(code)
}

// run returns what to end with.
func run(dir keeper.Dir, argv []string) (int, error) {
	inherited, terminals := takeInherited()
	if err := dir.Make(); err != nil {
		return 0, err
	}
	lock, err := lockFile(dir.Lock())
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := becomeSubreaper(); err != nil {
		return 0, err
	}
	children := make(chan os.Signal, 1) // one is enough: reaping takes all there are
	signal.Notify(children, syscall.SIGCHLD)
	orders := make(chan os.Signal, 8)
	signal.Notify(orders, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := keeper.WriteAside(dir.KeeperPID(), pidLine(os.Getpid())); err != nil {
		return 0, err
	}
	out, err := newCollector(dir, terminals)
	if err != nil {
		return 0, err
	}
	for _, fd := range inherited {
		_ = syscall.Close(fd) // the collector has opened them anew
	}
	if err := dir.WriteFeatures(os.Getpid()); err != nil {
		return 0, err
	}
	heart, err := newHealth()
	if err != nil {
		return 0, err
	}
	s := supervisor{dir: dir, argv: argv, out: out, health: heart, boot: keeper.BootID()}
	if err := s.adopt(); err != nil {
		return 0, err
	}
	_ = os.Unsetenv(reloaded)
	go out.run()
	go newFence(dir, s.boot).run()
	err = s.run(children, orders)
	return s.code, err
}

func say(text string) { _, _ = os.Stderr.WriteString("skeeper: " + text + "\n") }
