package state

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// FuzzSnapshot restores from any bytes, and from the same with a checksum that
// fits. What is refused changes nothing; what is taken is written as it was.
func FuzzSnapshot(f *testing.F) {
	s := New()
	must(f, s.Apply(5, txn(put(Key{"Pod", "default", "a"}, "body", "node=n1"), put(Key{"Node", "", "n1"}, "x"))))
	var good bytes.Buffer
	must(f, s.WriteSnapshot(&good))
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()-4])
	f.Add([]byte{4, 8, 1, 16, 200})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, data []byte) {
		sum := binary.BigEndian.AppendUint32(bytes.Clone(data), crc32.Checksum(data, castagnoli))
		for _, file := range [][]byte{data, sum} {
			to := New()
			must(t, to.Apply(2, txn(put(Key{"Pod", "", "kept"}, "y"))))
			if err := to.Restore(bytes.NewReader(file)); err != nil {
				if _, ok := to.Get(Key{"Pod", "", "kept"}); !ok || to.Index() != 2 {
					t.Fatal("a snapshot that was refused has changed the store")
				}
				continue
			}
			var first, second bytes.Buffer
			must(t, to.WriteSnapshot(&first))
			again := New()
			must(t, again.Restore(bytes.NewReader(first.Bytes())))
			must(t, again.WriteSnapshot(&second))
			if !bytes.Equal(first.Bytes(), second.Bytes()) {
				t.Fatal("a snapshot is written otherwise after it was restored")
			}
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
