package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) imageCommand() *cli.Command {
	return &cli.Command{
		Name:     "image",
		Category: groupImages,
		Usage:    "what Pods are made from",
		Subcommands: append(s.imageVerbs(), []*cli.Command{
			{
				Name: "import", ArgsUsage: "FILE.tar|-", Usage: "bring an image from a file to the cluster",
				UsageText: `skein image import web.tar
docker save web:v1 | skein image import -
skein image import web.tar.gz --node n2     keep it there first; others fetch it from it`,
				Description: "The file is what \"docker save\" writes, or an OCI layout in a tar; plain, gzip or zstd.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "node", Usage: "the `NODE` to keep it on; else any"},
					&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "no progress, names alone"},
				},
				Action: s.importImage,
			},
		}...),
	}
}

// importChunk is how much of the file a message carries, in bytes.
const importChunk = 256 << 10

func (s *session) importImage(c *cli.Context) error {
	if !c.Args().Present() {
		return missing(c, "a file")
	}
	if c.NArg() > 1 {
		return tooMany(c, c.Args().Get(1))
	}
	file, size := s.stdin, int64(0)
	if name := c.Args().First(); name != "-" {
		var err error
		if file, err = os.Open(name); err != nil {
			return unreadable(err)
		}
		defer file.Close()
		if info, err := file.Stat(); err == nil {
			size = info.Size()
		}
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	stream, err := cluster.ImportImage(c.Context)
	if err != nil {
		return err
	}
	meter := &meter{progress: newProgress(io.Discard, false, s.columns), size: size}
	if s.errTTY && !c.Bool("quiet") {
		meter.progress = newProgress(s.stderr, true, s.columns)
	}
	err = sendChunks(file, c.String("node"), stream.Send, meter)
	meter.progress.done(meter.subject(), "")
	if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the server ended it, and says why below
		return err
	}
	response, err := stream.CloseAndReceive()
	if err != nil {
		return err
	}
	for _, reference := range response.GetReferences() {
		if c.Bool("quiet") {
			fmt.Fprintln(s.stdout, clean(reference))
		} else {
			fmt.Fprintf(s.stdout, "%s imported (%s, on %s)\n", clean(reference), megabytes(response.GetBytes()), clean(response.GetNode()))
		}
	}
	return nil
}

// meter tells how much of a file has been sent.
type meter struct {
	progress *progress
	size     int64 // of the file, 0 where it is not known
	sent     int64
	told     int64
}

func (m *meter) subject() string { return "sending" }

func (m *meter) add(n int) {
	m.sent += int64(n)
	if m.sent-m.told < 1<<20 {
		return
	}
	m.told = m.sent
	text := megabytes(m.sent)
	if m.size > 0 {
		text += " of " + megabytes(m.size)
	}
	m.progress.tell(m.subject(), "", text)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func sendChunks(r io.Reader, node string, send func(*skeinv1.ImportImageRequest) error, meter *meter) error {
	buffer := make([]byte, importChunk)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, buffer)
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return fmt.Errorf("read the image: %w", err)
		}
		if n > 0 || first {
			if err := send(&skeinv1.ImportImageRequest{Chunk: buffer[:n], Node: node}); err != nil {
				return err
			}
			meter.add(n)
		}
		if ended {
			return nil
		}
	}
}
