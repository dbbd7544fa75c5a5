package consensus

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/skein-dev/skein/consensus/consensustest"
)

// TestRealStores holds the stores on disk to what the models of them do. A kill
// is a copy of their files: the process wrote, the kernel keeps.
func TestRealStores(t *testing.T) {
	consensustest.Suite(t, func(t testing.TB) consensustest.Place {
		base, lives := t.TempDir(), 0
		dir := filepath.Join(base, "0")
		return consensustest.Place{
			Open: func(t testing.TB) consensustest.Opened {
				s, err := OpenStores(dir, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				return consensustest.Opened{Log: s.Log, Stable: s.Stable, Snapshots: s.Snapshots, Close: s.Close}
			},
			Kill: func(t testing.TB) {
				lives++
				next := filepath.Join(base, strconv.Itoa(lives))
				copyTree(t, dir, next)
				dir = next
			},
		}
	})
}
