package lab

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// Command is `skeind lab`.
func Command() *cli.Command {
	return &cli.Command{
		Name:  "lab",
		Usage: "raise a cluster on this machine, and do to it what happens to clusters",
		UsageText: `skeind lab up                      three nodes, ready in seconds
skeind lab status                  how they are
skeind lab kill n2                 take the power from one
skeind lab partition n1,n2 n3      cut the network in two
skeind lab heal                    undo all of that
skeind lab disk n2 hang            make a disk bad, of a lab raised with --disk 2G
skeind lab exec n1 -- ss -tn       a command inside a node's network
skeind lab down                    nothing stays behind`,
		Subcommands: []*cli.Command{
			upCommand(), downCommand(), statusCommand(),
			onNode("kill", "NODE", "take the power from a node: its link goes down, then all of its processes", (*Lab).Kill),
			onNode("stop", "NODE", "end a node's agent alone, as a crash would; its containers run on", (*Lab).Stop),
			onNode("start", "NODE", "let a stopped agent run again", (*Lab).Start),
			partitionCommand(), healCommand(), renumberCommand(), slowCommand(), diskCommand(), execCommand(), forwardCommand(), serveDiskCommand(),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return misuse("see them with \"skeind lab --help\"", "there is no command \"lab %s\"", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

func flags(more ...cli.Flag) []cli.Flag {
	return append([]cli.Flag{&cli.StringFlag{Name: "name", Usage: "which `LAB`", Value: defaultName}}, more...)
}

// operands takes a command's arguments apart: flags may stand behind them, as in
// `slow n1 --loss 5%`. What follows "--" is left alone.
func operands(c *cli.Context, least, most int, usage string) ([]string, error) {
	var out []string
	args := c.Args().Slice()
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			out = append(out, args[i:]...)
			i = len(args)
		case len(arg) > 1 && arg[0] == '-':
			name, value, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			if !inline && i+1 < len(args) {
				i++
				value, inline = args[i], true
			}
			if !inline {
				return nil, misuse("", "flag %s needs a value", arg)
			}
			if err := c.Set(name, value); err != nil {
				return nil, misuse("see \"skeind lab "+c.Command.Name+" --help\"", "%s: %v", arg, err)
			}
		default:
			out = append(out, arg)
		}
	}
	if len(out) < least || most >= 0 && len(out) > most {
		return nil, misuse("skeind lab "+c.Command.Name+" "+usage, "lab %s: wrong number of arguments", c.Command.Name)
	}
	return out, nil
}

func upCommand() *cli.Command {
	return &cli.Command{
		Name: "up", Usage: "raise a lab, or make one that is there whole again",
		Flags: flags(
			&cli.IntFlag{Name: "nodes", Usage: "how `MANY` machines (default: 3, or as many as there are)"},
			&cli.IntFlag{Name: "port", Usage: "the API's `PORT` on 127.0.0.1 (default: 7380, or as it is)"},
			&cli.StringFlag{Name: "disk", Usage: "give each node a disk of its own of this `SIZE`, like 2G, that can be made bad"},
		),
		Action: func(c *cli.Context) error {
			if _, err := operands(c, 0, 0, "[--nodes 3] [--name default] [--port 7380] [--disk 2G]"); err != nil {
				return err
			}
			o := Order{Name: c.String("name"), Nodes: c.Int("nodes"), Port: c.Int("port"), Out: os.Stderr}
			if c.IsSet("nodes") && o.Nodes < 1 || c.IsSet("port") && o.Port < 1 {
				return misuse("", "--nodes and --port begin at 1")
			}
			var err error
			if o.Disk, err = parseSize(c.String("disk")); err != nil {
				return err
			}
			if err := Up(c.Context, o); err != nil {
				return err
			}
			l, err := Look(o.Name)
			if err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, l.Summary())
			return l.show(os.Stdout)
		},
	}
}

func downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Usage: "remove a lab: no process, namespace, mount, link, cgroup or file stays behind",
		Flags: flags(),
		Action: func(c *cli.Context) error {
			if _, err := operands(c, 0, 0, "[--name default]"); err != nil {
				return err
			}
			return Down(c.Context, c.String("name"), os.Stderr)
		},
	}
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "show the nodes of a lab",
		Flags: flags(),
		Action: func(c *cli.Context) error {
			if _, err := operands(c, 0, 0, "[--name default]"); err != nil {
				return err
			}
			l, err := Look(c.String("name"))
			if err != nil {
				return err
			}
			return l.show(os.Stdout)
		},
	}
}

// change is a command that locks the lab.
func change(c *cli.Context, do func(*Lab) error) error {
	l, err := Open(c.Context, c.String("name"), os.Stderr)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	return do(l)
}

func onNode(name, args, usage string, do func(*Lab, context.Context, string) error) *cli.Command {
	return &cli.Command{
		Name: name, ArgsUsage: args, Usage: usage, Flags: flags(),
		Action: func(c *cli.Context) error {
			nodes, err := operands(c, 1, 1, args)
			if err != nil {
				return err
			}
			return change(c, func(l *Lab) error { return do(l, c.Context, nodes[0]) })
		},
	}
}

func partitionCommand() *cli.Command {
	return &cli.Command{
		Name: "partition", ArgsUsage: "n1,n2 n3", Usage: "cut the network between groups of nodes",
		Flags: flags(),
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, -1, "n1,n2 n3")
			if err != nil {
				return err
			}
			var groups [][]string
			for _, a := range args {
				groups = append(groups, strings.Split(a, ","))
			}
			return change(c, func(l *Lab) error { return l.Partition(groups) })
		},
	}
}

func healCommand() *cli.Command {
	return &cli.Command{
		Name: "heal", Usage: "undo partition, slow and kill",
		Flags: flags(),
		Action: func(c *cli.Context) error {
			if _, err := operands(c, 0, 0, "[--name default]"); err != nil {
				return err
			}
			return change(c, func(l *Lab) error { return l.Heal(c.Context) })
		},
	}
}

func renumberCommand() *cli.Command {
	return &cli.Command{
		Name: "renumber", Usage: "take the power from all nodes at once, and give each another address with it back",
		Flags: flags(),
		Action: func(c *cli.Context) error {
			if _, err := operands(c, 0, 0, "[--name default]"); err != nil {
				return err
			}
			return change(c, func(l *Lab) error { return l.Renumber(c.Context) })
		},
	}
}

func slowCommand() *cli.Command {
	return &cli.Command{
		Name: "slow", ArgsUsage: "NODE", Usage: "make a node's link lose packets, or delay them, each way",
		Flags: flags(
			&cli.StringFlag{Name: "loss", Usage: "`SHARE` of the packets to lose, like 5%", Value: "0%"},
			&cli.DurationFlag{Name: "delay", Usage: "`TIME` to hold each packet back, like 50ms; takes a kernel with netem"},
		),
		Action: func(c *cli.Context) error {
			nodes, err := operands(c, 1, 1, "NODE --loss 5% [--delay 50ms]")
			if err != nil {
				return err
			}
			if !c.IsSet("loss") && !c.IsSet("delay") {
				return misuse("skeind lab slow "+nodes[0]+" --loss 5%", "lab slow: give --loss, --delay or both")
			}
			loss, err := parsePercent(c.String("loss"))
			if err != nil {
				return err
			}
			delay := c.Duration("delay")
			if delay < 0 || delay > maxDelay {
				return misuse("for example --delay 50ms", "--delay %v: it is 0 to %v", delay, maxDelay)
			}
			return change(c, func(l *Lab) error { return l.Slow(nodes[0], loss, delay) })
		},
	}
}

func diskCommand() *cli.Command {
	const usage = "NODE full|slow|hang|ro|heal [--delay 150ms]"
	return &cli.Command{
		Name: "disk", ArgsUsage: usage, Usage: "make a node's own disk bad, or well again (of a lab with --disk)",
		Flags: flags(&cli.DurationFlag{Name: "delay", Usage: "`TIME` that a flush takes on a slow disk; a sync of a file is two to four", Value: slowFlush}),
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, 2, usage)
			if err != nil {
				return err
			}
			delay := c.Duration("delay")
			if delay < 0 || delay > maxDelay {
				return misuse("for example --delay 150ms", "--delay %v: it is 0 to %v", delay, maxDelay)
			}
			return change(c, func(l *Lab) error { return l.SetDisk(args[0], DiskState(args[1]), delay) })
		},
	}
}

func serveDiskCommand() *cli.Command {
	return &cli.Command{
		Name: "serve-disk", Hidden: true, Usage: "the process under a node's disk",
		Action: func(c *cli.Context) error {
			if c.NArg() != 3 {
				return misuse("", "lab serve-disk: wrong number of arguments")
			}
			return ServeDisk(c.Args().Get(0), c.Args().Get(1), c.Args().Get(2))
		},
	}
}

// parseSize reads an amount like 256M or 1G; "" is 0.
func parseSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	unit := map[byte]int64{'M': 1 << 20, 'G': 1 << 30}[text[len(text)-1]]
	n, err := strconv.ParseInt(text[:len(text)-1], 10, 32)
	if err != nil || unit == 0 || n*unit < leastDisk || n*unit > 64<<30 {
		return 0, misuse("for example --disk 2G", "--disk %s: it is 64M to 64G", text)
	}
	return n * unit, nil
}

func execCommand() *cli.Command {
	return &cli.Command{
		Name: "exec", ArgsUsage: "NODE -- CMD", Usage: "run a command inside a node's network namespace",
		Flags: flags(),
		Action: func(c *cli.Context) error {
			const usage = "NODE -- CMD"
			args, err := operands(c, 3, -1, usage)
			if err != nil {
				return err
			}
			if args[1] != "--" {
				return misuse("skeind lab exec "+usage, "lab exec: \"--\" is missing before the command")
			}
			l, err := Look(c.String("name"))
			if err != nil {
				return err
			}
			return l.Exec(args[0], args[2:], os.Environ())
		},
	}
}

func forwardCommand() *cli.Command {
	return &cli.Command{
		Name: "forward", Hidden: true, Usage: "pass connections from this machine's loopback on to a lab",
		Flags: flags(&cli.IntFlag{Name: "port", Required: true}),
		Action: func(c *cli.Context) error {
			return Forward(c.Context, c.String("name"), c.Int("port"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
}
