package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/snapshotfile"
)

func (s *session) snapshotCommand() *cli.Command {
	return &cli.Command{
		Name:     "snapshot",
		Category: groupCluster,
		Usage:    "what was asked of the cluster, as a file",
		Subcommands: []*cli.Command{
			{
				Name: "save", ArgsUsage: "FILE|-", Usage: "write all objects to a file, as they are at one moment",
				UsageText:   "skein snapshot save cluster.snap",
				Description: "Takes the role admin. The file holds no keys and no tokens, but whatever manifests say: keep it where you keep them.",
				Action:      s.saveSnapshot,
			},
			{
				Name: "inspect", ArgsUsage: "FILE|-", Usage: "check a file and tell what is in it, without a cluster",
				UsageText: "skein snapshot inspect cluster.snap",
				Action:    s.inspectSnapshot,
			},
			{
				Name: "restore", ArgsUsage: "FILE", Usage: "make the objects of people what they are in a file",
				UsageText: `skein snapshot restore cluster.snap --dry-run      what would change
skein snapshot restore cluster.snap --yes          go ahead
skein snapshot restore cluster.snap --yes --prune  and delete what is not in the file`,
				Description: "Nodes, tokens and keys of the cluster stay as they are. Takes the role admin. It may be run again.",
				Flags: []cli.Flag{
					&cli.BoolFlag{Name: "dry-run", Usage: "tell what would change, and change nothing"},
					&cli.BoolFlag{Name: "prune", Usage: "delete objects of people that are not in the file"},
					&cli.BoolFlag{Name: "yes", Usage: "go ahead"},
				},
				Action: s.restoreSnapshot,
			},
		},
	}
}

func oneFile(c *cli.Context) (string, error) {
	switch {
	case !c.Args().Present():
		return "", missing(c, "a file")
	case c.NArg() > 1:
		return "", tooMany(c, c.Args().Get(1))
	}
	return c.Args().First(), nil
}

func (s *session) saveSnapshot(c *cli.Context) error {
	name, err := oneFile(c)
	if err != nil {
		return err
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	stream, err := cluster.SaveSnapshot(c.Context, &skeinv1.SaveSnapshotRequest{})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	receive := func(w io.Writer) error {
		for {
			msg, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := w.Write(msg.GetChunk()); err != nil {
				return unreadable(err)
			}
		}
	}
	if name == "-" {
		return receive(s.stdout)
	}
	header, err := keepSnapshot(name, receive)
	if err != nil {
		return err
	}
	if header.GetAgeMs() > 0 {
		fmt.Fprintf(s.stderr, "warning: there is no leader; this is the copy of %s, %s old\n", clean(header.GetNode()), (time.Duration(header.GetAgeMs()) * time.Millisecond).Round(time.Second))
	}
	fmt.Fprintf(s.stdout, "%s holds %s, as of index %d\n", name, objectsIn(header), header.GetIndex())
	return nil
}

// keepSnapshot writes a file whole or not at all, and believes it is good only
// after it has been read back.
func keepSnapshot(name string, receive func(io.Writer) error) (header *skeinv1.SnapshotHeader, err error) {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".new-*") // 0600
	if err != nil {
		return nil, unreadable(err)
	}
	defer func() {
		_ = file.Close() // again, where it was closed
		if err != nil {
			_ = os.Remove(file.Name()) // the first error is the one to tell
		}
	}()
	if err := receive(file); err != nil {
		return nil, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, unreadable(err)
	}
	if header, err = snapshotfile.Read(file, nil); err != nil {
		return nil, failed("try again", "%s: %v", name, err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return nil, unreadable(err)
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return nil, unreadable(err)
	}
	return header, nil
}

func (s *session) readSnapshot(name string) (*skeinv1.SnapshotHeader, error) {
	file := s.stdin
	if name != "-" {
		var err error
		if file, err = os.Open(name); err != nil {
			return nil, unreadable(err)
		}
		defer file.Close()
	}
	header, err := snapshotfile.Read(file, nil)
	if err != nil {
		return nil, failed("", "%s: %v", name, err)
	}
	return header, nil
}

func (s *session) inspectSnapshot(c *cli.Context) error {
	name, err := oneFile(c)
	if err != nil {
		return err
	}
	header, err := s.readSnapshot(name)
	if err != nil {
		return err
	}
	age := "the leader's own copy"
	if header.GetAgeMs() > 0 {
		age = "copy of " + clean(header.GetNode()) + ", " + (time.Duration(header.GetAgeMs()) * time.Millisecond).String() + " old"
	}
	fmt.Fprintf(s.stdout, "Format:    %d, whole and unaltered\nCluster:   %s, epoch %s\nIndex:     %d\nTaken:     %s (%s)\nBy:        skein %s on %s\nObjects:   %s\nLeft out:  %s\n",
		header.GetFormat(), clean(header.GetClusterId()), clean(header.GetEpoch()), header.GetIndex(),
		time.Unix(header.GetTimeUnix(), 0).UTC().Format(time.RFC3339), age,
		clean(header.GetVersion()), clean(header.GetNode()), kindCounts(header.GetCounts()), kindCounts(header.GetLeftOut()))
	return nil
}

func kindCounts(counts map[string]uint64) string {
	var out []string
	for kind, n := range counts {
		out = append(out, fmt.Sprintf("%d %s", n, clean(kind)))
	}
	if len(out) == 0 {
		return "none"
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(a[strings.Index(a, " "):], b[strings.Index(b, " "):]) })
	return strings.Join(out, ", ")
}

func objectsIn(h *skeinv1.SnapshotHeader) string {
	n := uint64(0)
	for _, count := range h.GetCounts() {
		n += count
	}
	return fmt.Sprintf("%d objects", n)
}

func (s *session) restoreSnapshot(c *cli.Context) error {
	name, err := oneFile(c)
	if err != nil {
		return err
	}
	if _, err := s.readSnapshot(name); err != nil {
		return err
	}
	dry := c.Bool("dry-run")
	if !dry && !c.Bool("yes") {
		return usageError("see what would change with --dry-run, go ahead with --yes", "this changes the objects of the cluster; nothing was changed")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return unreadable(err)
	}
	defer file.Close()
	stream, err := cluster.RestoreSnapshot(c.Context)
	if err != nil {
		return err
	}
	buffer := make([]byte, importChunk)
	for {
		n, rerr := io.ReadFull(file, buffer)
		if n > 0 {
			if stream.Send(&skeinv1.RestoreSnapshotRequest{Chunk: buffer[:n], DryRun: dry, Prune: c.Bool("prune")}) != nil {
				break // the answer says why
			}
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return unreadable(rerr)
		}
	}
	response, err := stream.CloseAndReceive()
	if err != nil {
		return err
	}
	s.tellRestored(response, dry)
	return nil
}

func (s *session) tellRestored(response *skeinv1.RestoreSnapshotResponse, dry bool) {
	would := ""
	if dry {
		would = " (dry run)"
	}
	for _, a := range response.GetApplied() {
		if a.GetAction() != "unchanged" {
			fmt.Fprintf(s.stdout, "%s %s%s\n", named(a.GetObject()), clean(a.GetAction()), would)
		}
	}
	for _, ref := range response.GetKept() {
		fmt.Fprintf(s.stdout, "%s is not in the snapshot, and stays\n", named(ref))
	}
	fmt.Fprintf(s.stderr, "%d objects looked at, as of index %d%s\n", len(response.GetApplied()), response.GetHeader().GetIndex(), would)
}

func named(ref *skeinv1.ObjectRef) string {
	out := clean(ref.GetKind()) + "/" + clean(ref.GetName())
	if ns := ref.GetNamespace(); ns != "" && ns != "default" {
		out += " in " + clean(ns)
	}
	return out
}
