package cli

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func (s *session) applyCommand() *cli.Command {
	return &cli.Command{
		Name:      "apply",
		Category:  groupChange,
		Usage:     "create or change what manifests describe, and wait until it is so",
		ArgsUsage: "-f FILE|DIR|-",
		UsageText: `skein apply -f web.yaml               one file, any number of documents
skein apply -f manifests/ -f db.yaml  a folder (*.yaml, *.yml, *.json) and a file, all or nothing
cat web.yaml | skein apply -f -       what comes on standard input
skein apply -f web.yaml --dry-run     check it, change nothing`,
		Description: "Manifests are Kubernetes YAML or JSON. A field that is not supported is refused by its path and line; then nothing is changed.",
		Flags: append([]cli.Flag{
			fileFlag(),
			&cli.BoolFlag{Name: "recursive", Aliases: []string{"R"}, Usage: "folders with all below them"},
			&cli.BoolFlag{Name: "dry-run", Usage: "check and fill in defaults, change nothing"},
		}, waitFlags()...),
		Action: s.apply,
	}
}

func fileFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "filename", Aliases: []string{"f"}, Usage: "`FILE`, folder, or - for standard input; may be repeated"}
}

func (s *session) apply(c *cli.Context) error {
	if c.Args().Present() {
		return usageError("skein apply -f "+c.Args().First(), "name files with -f")
	}
	manifest, err := s.readManifests(c)
	if err != nil {
		return err
	}
	if manifest == nil {
		return missing(c, "a manifest")
	}
	cluster, err := s.connect(c)
	if err != nil {
		return err
	}
	return s.applyManifest(c, cluster, manifest, &skeinv1.ApplyRequest{
		Manifest: manifest.data, Filename: manifest.name, Namespace: cluster.namespace, DryRun: c.Bool("dry-run"),
	})
}

// applyManifest sends a manifest, tells what it did and waits.
func (s *session) applyManifest(c *cli.Context, cluster *cluster, manifest *manifest, request *skeinv1.ApplyRequest) error {
	wait, err := s.newWaiting(c, cluster)
	if err != nil {
		return err
	}
	response, err := cluster.Apply(c.Context, request)
	if err != nil {
		return manifest.locate(err)
	}
	note := ""
	if request.GetDryRun() {
		note = " (dry run)"
	}
	for _, applied := range response.GetApplied() {
		fmt.Fprintf(s.stdout, "%s %s%s\n", clean(shown(applied.GetObject())), applied.GetAction(), note)
	}
	if request.GetDryRun() {
		return nil
	}
	return wait.all(c.Context, response.GetApplied(), false)
}

// A manifest is what goes to the server. Several files are sent as one, so that
// all of them are applied or none; parts remembers which line began which.
type manifest struct {
	data  []byte
	name  string
	parts []part
}

type part struct {
	name string
	line int // of its first line in the whole, from 1
}

// severalFiles stands for the name of a manifest made of several files; errors
// come back with it in front of the line.
const severalFiles = "manifests"

var severalLine = regexp.MustCompile(severalFiles + `:(\d+)`)

// locate puts the file and line of a part back into what the server says.
func (m *manifest) locate(err error) error {
	if len(m.parts) < 2 {
		return err
	}
	f := *explain(err)
	if f.message == "" {
		return err
	}
	f.message = severalLine.ReplaceAllStringFunc(f.message, func(found string) string {
		line, _ := strconv.Atoi(severalLine.FindStringSubmatch(found)[1])
		for _, p := range slices.Backward(m.parts) {
			if line >= p.line {
				return fmt.Sprintf("%s:%d", p.name, line-p.line+1)
			}
		}
		return found
	})
	return &f
}

// readManifests reads all that -f names; nil when nothing is named.
func (s *session) readManifests(c *cli.Context) (*manifest, error) {
	var files []string
	for _, name := range c.StringSlice("filename") {
		found, err := manifestFiles(name, c.Bool("recursive"))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, nil
	}
	m := &manifest{name: severalFiles}
	var all bytes.Buffer
	for _, name := range files {
		data, err := s.readFile(name)
		if err != nil {
			return nil, err
		}
		if name == "-" {
			name = "stdin"
		}
		if len(files) == 1 {
			return &manifest{data: data, name: name}, nil
		}
		all.WriteString("---\n")
		m.parts = append(m.parts, part{name: name, line: bytes.Count(all.Bytes(), []byte("\n")) + 1})
		all.Write(data)
		if !bytes.HasSuffix(data, []byte("\n")) {
			all.WriteByte('\n')
		}
	}
	m.data = all.Bytes()
	return m, nil
}

// maxManifest is what a server takes at once, in bytes. To send it more would be
// in vain, and a pipe may have no end.
const maxManifest = 4 << 20

func (s *session) readFile(name string) ([]byte, error) {
	from, said := s.stdin, "stdin"
	if name != "-" {
		said = name
		file, err := os.Open(name)
		if err != nil {
			return nil, unreadable(err)
		}
		defer file.Close()
		from = file
	}
	data, err := io.ReadAll(io.LimitReader(from, maxManifest+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if len(data) > maxManifest {
		return nil, usageError("apply it in parts", "%s is larger than %d MB", said, maxManifest>>20)
	}
	return data, nil
}

func manifestFiles(name string, recursive bool) ([]string, error) { //nolint:revive // recursive mirrors the flag
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, unreadable(err)
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	var files []string
	err = filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != name && !recursive:
			return filepath.SkipDir
		case !entry.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(path))):
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return nil, unreadable(err)
	}
	if len(files) == 0 {
		return nil, usageError("", "no manifest (*.yaml, *.yml, *.json) in %s", name)
	}
	return files, nil
}
