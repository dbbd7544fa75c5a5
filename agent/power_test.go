package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/consensustest/power"
	"github.com/skein-dev/skein/runtime/keeper"
)

// powerDir makes this program do what an agent does with its files, in a
// directory, instead of the tests.
const powerDir = "SKEIN_POWER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(powerDir); dir != "" {
		work := powerWork
		if os.Getenv(powerFrom) != "" {
			work = recoverWork
		}
		if err := work(dir, os.NewFile(3, "promises")); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var powerPast = time.UnixMilli(1000) // so that the epochs count from there

// powerWork begins a node's key, numbers its lives, keeps how a container ended,
// and is removed in the end. It says what is done.
func powerWork(dir string, said io.Writer) error {
	if err := consensus.SyncDirs(dir); err != nil {
		return err
	}
	key, err := identity.EnsureKey(filepath.Join(dir, "identity"), rand.Reader)
	if err != nil {
		return err
	}
	fmt.Fprintf(said, "key %x\n", key)
	for range 3 {
		boot, err := bootEpoch(dir, powerPast)
		if err != nil {
			return err
		}
		fmt.Fprintln(said, "boot", boot)
		if err := keeper.WriteSynced(filepath.Join(dir, "exit"), fmt.Append(nil, boot)); err != nil {
			return err
		}
		fmt.Fprintln(said, "exit", boot)
	}
	a := &Agent{cfg: Config{DataDir: dir}, log: slog.New(slog.DiscardHandler)}
	var removed *RemovedError
	if err := a.removed("n2"); !errors.As(err, &removed) {
		return err
	}
	fmt.Fprintln(said, "removed")
	return nil
}

// powerCheck compares what is left with what was said.
func powerCheck(dir, said string) error {
	var boot, exit, kept uint64
	for line := range strings.Lines(said) {
		_, _ = fmt.Sscanf(line, "boot %d", &boot) // one
		_, _ = fmt.Sscanf(line, "exit %d", &exit) // or the other
	}
	_, key, promised := strings.Cut(said, "key ")
	key, _, _ = strings.Cut(key, "\n")
	got, err := identity.EnsureKey(filepath.Join(dir, "identity"), rand.Reader)
	if err != nil {
		return err
	}
	if promised && hex.EncodeToString(got) != key {
		return errors.New("the key is another")
	}
	raw, err := os.ReadFile(filepath.Join(dir, "exit"))
	if err != nil && (exit > 0 || !errors.Is(err, os.ErrNotExist)) {
		return err
	}
	if _, err := fmt.Sscan(string(raw), &kept); err == nil && len(raw) < 4 || kept < exit || kept > boot {
		return fmt.Errorf("the exit is %q, want %d to %d", raw, exit, boot)
	}
	next, err := bootEpoch(dir, powerPast)
	if err != nil {
		return err
	}
	if next <= boot || next > max(1002, boot+2) {
		return fmt.Errorf("after life %d comes %d", boot, next)
	}
	if strings.Contains(said, "removed") && !Removed(dir) {
		return errors.New("the node does not know that it was removed")
	}
	return nil
}

func powerLife(t *testing.T, cut int, skip func(string) bool, env ...string) *power.Death {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	death, err := power.Run(power.Life{
		Args: []string{program}, Env: append(append(os.Environ(), env...), powerDir+"="+dir), Root: dir, Cut: cut, Skip: skip,
	})
	if err != nil {
		t.Fatalf("cut %d: %v", cut, err)
	}
	return death
}

func powerLeft(t *testing.T, death *power.Death, seed int, check func(dir, said string) error) (failed []error) {
	t.Helper()
	chance := mathrand.New(mathrand.NewPCG(uint64(seed), 1)) //nolint:gosec // not a secret
	torn := func(dir string) error { return death.Disk.Torn(dir, chance) }
	for i, put := range []func(string) error{death.Disk.Lost, death.Disk.Kept, torn, torn, torn, torn} {
		dir := filepath.Join(t.TempDir(), "left")
		err := put(dir)
		if err == nil {
			err = check(dir, string(death.Said))
		}
		if err != nil {
			said := bytes.ReplaceAll(death.Said, []byte("\n"), []byte("; "))
			failed = append(failed, fmt.Errorf("%s, disk %d, after %q: %w", death.At, i, said, err))
		}
	}
	return failed
}

func TestTheFilesOfAnAgentOutliveAPowerCutAtEverySync(t *testing.T) {
	moments := 0
	for cut := 1; ; cut++ {
		death := powerLife(t, cut, nil)
		for _, err := range powerLeft(t, death, cut, powerCheck) {
			t.Error(err)
		}
		if death.At == "" {
			break
		}
		moments++
	}
	if moments < 30 {
		t.Errorf("the power was cut at %d moments: the test shows less than it should", moments)
	}
	// And it would notice.
	for _, forgotten := range []string{".", "epoch", "exit", "identity", "key"} {
		death := powerLife(t, 0, func(path string) bool {
			return path == forgotten || forgotten == "epoch" && strings.HasPrefix(path, ".new-") ||
				path != "identity" && filepath.Dir(path) != "." && forgotten == "key" || forgotten == "exit" && strings.Contains(path, forgotten)
		})
		if len(powerLeft(t, death, 1, powerCheck)) == 0 {
			t.Errorf("nobody notices that %s is not synced", forgotten)
		}
	}
}
