package lab

import (
	"fmt"
	"io"
	"math"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// A Row is one node as `status` shows it.
type Row struct {
	Node    string
	State   string // running, stopped, killed; starting while its keeper has no agent; down without a keeper; removed from the cluster
	PID     int    // of the agent; 0 for none
	Address string
	Link    string
}

// Status tells how the nodes are, by what the kernel shows.
func (l *Lab) Status() []Row {
	var out []Row
	for _, n := range l.Nodes {
		agent, running := l.agent(n)
		_, kept := l.keeper(n)
		r := Row{Node: n.Name, Address: n.addr().String(), Link: l.link(n)}
		switch {
		case n.Killed:
			r.State = "killed"
		case running:
			r.State, r.PID = "running", agent.PID
		case l.removed(n):
			r.State = "removed"
		case l.held(n):
			r.State = "stopped"
		case kept:
			r.State = "starting"
		default:
			r.State = "down"
		}
		out = append(out, r)
	}
	return out
}

// show prints the table of nodes.
func (l *Lab) show(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NODE\tSTATE\tPID\tADDRESS\tLINK") // Flush tells of errors
	for _, r := range l.Status() {
		pid := "-"
		if r.PID > 0 {
			pid = strconv.Itoa(r.PID)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Node, r.State, pid, r.Address, r.Link)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return l.showPublished(w)
}

// Exec turns this process into a command that runs in a node's network. It
// returns only when it fails.
func (l *Lab) Exec(name string, argv, env []string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fault("", "there is no program %q on this machine", argv[0])
	}
	return inside(l.namespace(n), func() error {
		if err := unix.Exec(path, argv, env); err != nil {
			return fmt.Errorf("start %s in node %s: %w", argv[0], name, err)
		}
		return nil
	})
}

// parsePercent reads a share as people write it: 5% or 0.5%.
func parsePercent(text string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || math.IsNaN(p) || p < 0 || p > 100 {
		return 0, misuse("for example --loss 5%", "--loss %q: it is 0%% to 100%%", text)
	}
	return p / 100, nil
}

func percent(share float64) string {
	return strconv.FormatFloat(share*100, 'g', 4, 64) + "%"
}
