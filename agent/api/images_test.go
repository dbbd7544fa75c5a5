package api

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

// ended gives its messages and then the end as a connection tells it.
type ended [][]byte

func (e *ended) Receive() (*skeinv1.ImportImageRequest, error) {
	if len(*e) == 0 {
		return nil, fmt.Errorf("unknown: %w", io.EOF)
	}
	msg := &skeinv1.ImportImageRequest{Chunk: (*e)[0]}
	*e = (*e)[1:]
	return msg, nil
}

func TestAnArchiveEndsWhereItsStreamDoes(t *testing.T) {
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).Close(); err != nil {
		t.Fatal(err)
	}
	r := &chunks[*skeinv1.ImportImageRequest]{stream: &ended{buf.Bytes()[:100], nil, buf.Bytes()[100:]}}
	tr := tar.NewReader(r)
	if _, err := tr.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("an empty archive: %v, want its end", err)
	}
	if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
		t.Errorf("after the end: %d bytes, %v, want none", n, err)
	}
	if r.read != int64(buf.Len()) {
		t.Errorf("counted %d bytes, want %d", r.read, buf.Len())
	}
}
