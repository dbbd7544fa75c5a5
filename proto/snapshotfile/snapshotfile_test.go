package snapshotfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	logv1 "github.com/skein-dev/skein/proto/log/v1"
	skeinv1 "github.com/skein-dev/skein/proto/skein/v1"
)

func sample(t testing.TB, count int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, &skeinv1.SnapshotHeader{ClusterId: "c1", Index: 7, Counts: map[string]uint64{"Thing": uint64(count)}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		body := []byte(strings.Repeat("x", 20_000))
		if err := w.Add(&logv1.Object{Key: &logv1.Key{Kind: "Thing", Name: fmt.Sprint(i)}, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, count := range []int{0, 1, 120} { // none, one, several chunks
		var names []string
		header, err := Read(bytes.NewReader(sample(t, count)), func(o *logv1.Object) error {
			names = append(names, o.GetKey().GetName())
			return nil
		})
		if err != nil || header.GetIndex() != 7 || header.GetFormat() != Format || len(names) != count {
			t.Errorf("%d objects: got %d, %v, %v", count, len(names), header, err)
		}
	}
}

func TestAFileThatIsCutOrAlteredIsRefused(t *testing.T) {
	whole := sample(t, 60)
	for i := range whole {
		if _, err := Read(bytes.NewReader(whole[:i]), nil); !errors.Is(err, ErrCut) && !errors.Is(err, ErrNoSnapshot) {
			t.Fatalf("cut after %d of %d bytes: got %v", i, len(whole), err)
		}
		altered := bytes.Clone(whole)
		altered[i] ^= 0x20
		if _, err := Read(bytes.NewReader(altered), nil); err == nil {
			t.Fatalf("byte %d of %d altered: it is read", i, len(whole))
		}
	}
	if _, err := Read(bytes.NewReader(append(whole, 0)), nil); !errors.Is(err, ErrAltered) {
		t.Errorf("something behind the end: got %v, want ErrAltered", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f, 3))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = Read(bytes.NewReader(data), func(*logv1.Object) error { return nil }) // must not panic
	})
}
