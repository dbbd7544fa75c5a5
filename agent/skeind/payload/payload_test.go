package payload

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
)

func TestRuncVersionIsTheOneThatGoModPins(t *testing.T) {
	mod, err := os.ReadFile("../../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/opencontainers/runc v" + RuncVersion; !strings.Contains(string(mod), want) {
		t.Errorf("go.mod does not say %q: change RuncVersion with it", want)
	}
}

func TestUnfoldGivesWhatWasCompressed(t *testing.T) {
	program := bytes.Repeat([]byte("\x7fELF and the rest"), 10_000)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	tree := fstest.MapFS{"files/runc.zst": {Data: enc.EncodeAll(program, nil)}}
	got, err := unfold(tree, "runc.zst")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, program) {
		t.Errorf("got %d bytes, want the %d that went in", len(got), len(program))
	}
}

func TestUnfoldRefusesWhatIsDamaged(t *testing.T) {
	tree := fstest.MapFS{"files/runc.zst": {Data: []byte("no zstd at all")}}
	if _, err := unfold(tree, "runc.zst"); err == nil || !strings.Contains(err.Error(), "runc.zst") {
		t.Errorf("got error %v, want one that names the file", err)
	}
}

func TestATreeWithoutPayloadsSaysWhatToDo(t *testing.T) {
	tree := fstest.MapFS{"files/.placeholder": {}}
	_, err := unfold(tree, "skeeper.zst")
	if !errors.Is(err, ErrMissing) {
		t.Errorf("got error %v, want %v", err, ErrMissing)
	}
}
