package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

func (s *session) copyCommand() *cli.Command {
	return &cli.Command{
		Name:      "cp",
		Category:  groupInside,
		Usage:     "copy files into and out of a container",
		ArgsUsage: "FROM TO, one of them [NAMESPACE/]POD:/PATH",
		UsageText: `skein cp web.conf web-1:/etc/web.conf
skein cp web-1:/var/log ./logs        a folder with all in it
tar c . | skein cp - web-1:/srv       unpacked there; no tar is needed in the image
skein cp web-1:/srv - > srv.tar       as a tar`,
		Description: "Modes, times and links are kept; links are never followed. Files belong to the container's user. Devices, pipes and sockets are left out.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "container", Aliases: []string{"c"}, Usage: "of the container `NAME`; else the first"},
		},
		Action: s.copy,
	}
}

// A place is a path here, or in a container.
type place struct {
	namespace, pod string // empty: here
	path           string
}

// parsePlace reads PATH or [NAMESPACE/]POD:/PATH.
func parsePlace(text string) (place, error) {
	before, after, remote := strings.Cut(text, ":")
	switch {
	case !remote, before == "", before[0] == '.', before[0] == '/', strings.Count(before, "/") > 1,
		runtime.GOOS == "windows" && len(before) == 1:
		return place{path: text}, nil
	}
	p := place{path: after}
	var ok bool
	if p.namespace, p.pod, ok = strings.Cut(before, "/"); !ok {
		p.namespace, p.pod = "", before
	}
	if !path.IsAbs(after) {
		return p, usageError("skein cp "+before+":/"+after, "%q is no path from the root of the container", after)
	}
	return p, nil
}

func (s *session) copy(c *cli.Context) error {
	if c.NArg() < 2 {
		return missing(c, "where from and where to")
	}
	if c.NArg() > 2 {
		return tooMany(c, c.Args().Get(2))
	}
	from, err := parsePlace(c.Args().Get(0))
	if err != nil {
		return err
	}
	to, err := parsePlace(c.Args().Get(1))
	if err != nil {
		return err
	}
	if (from.pod == "") == (to.pod == "") {
		return usageError("usage: "+usageLine(c.Command), "one of the two must be in a container, as POD:/PATH, and the other one here")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	ref := func(p place) *skeinv1.ObjectRef {
		ns := p.namespace
		if ns == "" {
			ns = cluster.namespace
		}
		return &skeinv1.ObjectRef{Kind: "pod", Namespace: ns, Name: p.pod}
	}
	if from.pod != "" {
		return s.copyOut(c.Context, cluster, &skeinv1.CopyOutRequest{Pod: ref(from), Container: c.String("container"), Path: from.path}, to.path)
	}
	start := &skeinv1.CopyInStart{Pod: ref(to), Container: c.String("container"), Path: to.path, Archive: from.path == "-"}
	return s.copyIn(c.Context, cluster, start, from.path)
}

// copyChunk bounds the data of one message, in bytes.
const copyChunk = 64 << 10

// chunks sends what is written to it.
type chunks struct {
	stream skeinv1connect.InsideServiceCopyInClientStream
}

// errTold says that the other side has ended the call, and tells why.
var errTold = errors.New("the call was ended")

func (c chunks) Write(b []byte) (int, error) {
	if c.stream.Send(&skeinv1.CopyInRequest{Chunk: append([]byte(nil), b...)}) != nil {
		return 0, errTold
	}
	return len(b), nil
}

func (s *session) copyIn(ctx context.Context, cluster *cluster, start *skeinv1.CopyInStart, from string) error {
	if from != "-" { // before anything is changed there
		if err := readable(from); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // what is not whole is taken back there
	stream, err := cluster.CopyIn(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&skeinv1.CopyInRequest{Start: start}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	out := bufio.NewWriterSize(chunks{stream}, copyChunk)
	p := &packer{warn: s.leftOut}
	if from == "-" {
		_, err = io.Copy(out, s.stdin)
	} else {
		err = p.pack(out, from)
	}
	if err = errors.Join(err, out.Flush()); err != nil && !errors.Is(err, errTold) {
		return err
	}
	answer, err := stream.CloseAndReceive()
	if err != nil {
		return err
	}
	for _, n := range answer.GetNotices() {
		s.leftOut(n)
	}
	return nil
}

func (s *session) leftOut(what string) { fmt.Fprintf(s.stderr, "note: left out: %s\n", clean(what)) }

func (s *session) copyOut(ctx context.Context, cluster *cluster, request *skeinv1.CopyOutRequest, to string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := cluster.CopyOut(ctx, request)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }() // what matters was said by Receive
	tar := &incoming{session: s, stream: stream}
	if to == "-" {
		_, err := io.Copy(s.stdout, tar)
		return err
	}
	if _, err := tar.peek(); err != nil { // before anything is made here
		return err
	}
	if err := unpack(tar, filepath.Clean(to), s.leftOut); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, tar) // what it says last
	return err
}

// incoming is the tar that a stream brings.
type incoming struct {
	session *session
	stream  skeinv1connect.InsideServiceCopyOutClientStream
	rest    []byte
}

// peek waits for the next part.
func (t *incoming) peek() ([]byte, error) {
	for len(t.rest) == 0 {
		msg, err := t.stream.Receive()
		if onlyEOF(err) { // which may say more than that
			err = io.EOF
		}
		if err != nil {
			return nil, err
		}
		if msg.GetNotice() != "" {
			t.session.leftOut(msg.GetNotice())
		}
		t.rest = msg.GetChunk()
	}
	return t.rest, nil
}

func (t *incoming) Read(b []byte) (int, error) {
	rest, err := t.peek()
	n := copy(b, rest)
	t.rest = t.rest[n:]
	return n, err
}
