package cli

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
	"github.com/skein-dev/skein/proto/skein/v1/skeinv1connect"
)

// maxListing bounds the documents of an archive that are sent with its list.
const maxListing = 4 << 20

func (s *session) pushImage(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "a name")
	}
	if c.NArg() > 1 {
		return tooMany(c, c.Args().Get(1))
	}
	ref := c.Args().First()
	archive, remove, err := s.archive(c, ref)
	if err != nil {
		return err
	}
	defer remove()
	entries, err := list(archive)
	if err != nil {
		return failed("it is made by \"docker save "+ref+" -o FILE.tar\", or is any OCI layout as a tar", "read the archive: %v", err)
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	stream, err := cluster.PushImage(c.Context)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	start := &skeinv1.PushStart{Reference: ref, Node: c.String("node"), Entries: entries}
	if err := stream.Send(&skeinv1.PushImageRequest{Message: &skeinv1.PushImageRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	needs, err := stream.Receive()
	if err != nil {
		return err
	}
	sent, err := s.sendParts(archive, entries, needs.GetNeeds().GetEntries(), stream)
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the server ended it, and says why below
		return err
	}
	last, err := stream.Receive()
	if err != nil {
		return err
	}
	var there int64
	for _, e := range entries {
		if e.GetDigest() != "" && len(e.GetData()) == 0 {
			there += e.GetSize()
		}
	}
	for _, name := range last.GetDone().GetReferences() {
		fmt.Fprintf(s.stdout, "%s pushed to %s: %s sent, %s was there\n", clean(name), clean(last.GetDone().GetNode()), megabytes(sent), megabytes(max(0, there-sent)))
	}
	return nil
}

// archive finds the file that holds an image, which is read twice: the one that is
// named, or a copy of standard input, or what this machine's docker or podman saves.
func (s *session) archive(c *cli.Context, ref string) (file *os.File, remove func(), err error) {
	if name := c.String("file"); name != "" && name != "-" {
		if file, err = os.Open(name); err != nil {
			return nil, nil, unreadable(err)
		}
		return file, func() { _ = file.Close() }, nil
	}
	if file, err = os.CreateTemp("", "skein-push-"); err != nil {
		return nil, nil, failed("", "keep a copy of the archive: %v", err)
	}
	remove = func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}
	if c.String("file") == "-" {
		_, err = io.Copy(file, s.stdin)
	} else {
		err = save(c.Context, ref, file)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		remove()
		return nil, nil, err
	}
	return file, remove, nil
}

// save has docker or podman write an image.
func save(ctx context.Context, ref string, to io.Writer) error {
	for _, program := range []string{"docker", "podman"} {
		at, err := exec.LookPath(program)
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(ctx, at, "save", ref)
		var says bytes.Buffer
		cmd.Stdout, cmd.Stderr = to, &says
		if err := cmd.Run(); err != nil {
			return failed("say with -f which file holds it", "%s save %s: %s", program, ref, clean(firstLine(says.String())))
		}
		return nil
	}
	return failed("say with -f which file holds it, or bring it from a registry by \"skein image pull\"", "there is neither docker nor podman here to take %s from", ref)
}

func firstLine(text string) string {
	line, _, _ := bytes.Cut([]byte(text), []byte("\n"))
	return string(line)
}

// files reads an archive's files in order. each must not keep the reader.
func files(archive io.ReadSeeker, each func(i int, h *tar.Header, r io.Reader) error) error {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var r io.Reader = bufio.NewReaderSize(archive, 1<<20)
	if head, _ := r.(*bufio.Reader).Peek(2); bytes.Equal(head, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		defer func() { _ = z.Close() }()
		r = z
	}
	t := tar.NewReader(r)
	for i := 0; ; i++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(i, h, t); err != nil {
			return err
		}
	}
}

// list tells what is in an archive: a digest of each file, and the documents by
// which a server finds its way in it.
func list(archive io.ReadSeeker) ([]*skeinv1.PushEntry, error) {
	var out []*skeinv1.PushEntry
	err := files(archive, func(_ int, h *tar.Header, r io.Reader) error {
		e := &skeinv1.PushEntry{Name: h.Name}
		out = append(out, e)
		switch h.Typeflag {
		case tar.TypeSymlink, tar.TypeLink:
			e.Link, e.Symbolic = h.Linkname, h.Typeflag == tar.TypeSymlink
			return nil
		case tar.TypeReg:
		default:
			return nil
		}
		sum := sha256.New()
		var kept bytes.Buffer
		to := io.Writer(sum)
		if name := path.Clean(h.Name); (name == "index.json" || name == "manifest.json") && h.Size <= maxListing {
			to = io.MultiWriter(sum, &kept)
		}
		n, err := io.Copy(to, r)
		e.Size, e.Digest, e.Data = n, fmt.Sprintf("sha256:%x", sum.Sum(nil)), kept.Bytes()
		return err
	})
	return out, err
}

// sendParts sends those files that are needed, in that order, and returns how many
// bytes they were.
func (s *session) sendParts(archive io.ReadSeeker, entries []*skeinv1.PushEntry, needed []int32, stream skeinv1connect.ImageServicePushImageClientStream) (int64, error) {
	m := &meter{progress: newProgress(io.Discard, false, s.columns)}
	if s.errTTY {
		m.progress = newProgress(s.stderr, true, s.columns)
	}
	want := map[int]bool{}
	for _, i := range needed {
		if int(i) < len(entries) {
			want[int(i)] = true
			m.size += entries[i].GetSize()
		}
	}
	buffer := make([]byte, importChunk)
	err := files(archive, func(i int, _ *tar.Header, r io.Reader) error {
		for want[i] {
			n, err := io.ReadFull(r, buffer)
			ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
			if err != nil && !ended {
				return err
			}
			if n > 0 {
				part := &skeinv1.PushPart{Entry: int32(i), Chunk: buffer[:n]} //nolint:gosec // the server named it
				if err := stream.Send(&skeinv1.PushImageRequest{Message: &skeinv1.PushImageRequest_Part{Part: part}}); err != nil {
					return err
				}
				m.add(n)
			}
			if ended {
				break
			}
		}
		return nil
	})
	m.progress.done(m.subject(), "")
	if err == nil {
		err = stream.Send(&skeinv1.PushImageRequest{Message: &skeinv1.PushImageRequest_Complete{Complete: true}})
	}
	if err == nil {
		err = stream.CloseSend()
	}
	return m.sent, err
}
