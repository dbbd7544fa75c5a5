package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skein-dev/skein/agent/identity"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus"
	"github.com/skein-dev/skein/consensus/state"
)

// powerFrom is a data directory, of which this program takes a copy that it
// re-forms.
const powerFrom = "SKEIN_POWER_FROM"

func recoverWork(dir string, said io.Writer) error {
	if err := copySynced(os.Getenv(powerFrom), dir); err != nil {
		return err
	}
	fmt.Fprintln(said, "ready")
	if err := reformed(dir); err != nil {
		return err
	}
	fmt.Fprintln(said, "re-formed")
	return nil
}

func reformed(dir string) error {
	return Recover(context.Background(), Recovery{DataDir: dir, Yes: true, Out: io.Discard, Logger: slog.New(slog.DiscardHandler)})
}

// copySynced copies a directory, and is done when that is safe.
func copySynced(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		next := filepath.Join(to, rel)
		if d.IsDir() {
			if err := os.MkdirAll(next, 0o700); err != nil {
				return err
			}
			return consensus.SyncDirs(next, filepath.Dir(next))
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(next, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		return errors.Join(err, f.Sync(), f.Close(), consensus.SyncDirs(filepath.Dir(next)))
	})
}

// reformCheck: there is the old log or the new one, whole; what was said to be
// new is; and who tries again has the new one.
func reformCheck(dir, said string) error {
	if !strings.Contains(said, "ready") {
		return nil
	}
	before, err := heldIn(dir)
	if err != nil {
		return err
	}
	switch done := strings.Contains(said, "re-formed"); {
	case before > 1:
		return fmt.Errorf("it is in epoch %d", before)
	case done && before != 1:
		return errors.New("it was re-formed, and is in its old epoch")
	}
	if err := reformed(dir); err != nil {
		return fmt.Errorf("another try: %w", err)
	}
	switch after, err := heldIn(dir); {
	case err != nil:
		return fmt.Errorf("after another try: %w", err)
	case after != before+1:
		return fmt.Errorf("another try leads from epoch %d to %d", before, after)
	}
	return nil
}

// heldIn finishes what was cut off, as an agent that starts does, and tells in
// which epoch its log is. All objects must be in it.
func heldIn(dir string) (epoch uint64, err error) {
	id, err := identity.Load(filepath.Join(dir, "identity"))
	if err != nil {
		return 0, err
	}
	if err := finishReform(dir, id); err != nil {
		return 0, err
	}
	r := Recovery{DataDir: dir, Logger: slog.New(slog.DiscardHandler)}
	have, stores, err := r.open(id, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	for _, key := range []state.Key{
		{Kind: object.KindAuthority, Name: object.AuthorityName},
		{Kind: object.KindKeyring, Name: object.KeyringName},
		{Kind: object.KindNamespace, Name: object.DefaultNamespace},
		{Kind: object.KindNode, Name: "n1"},
	} {
		if _, there := have.copy.Store.Get(key); !there {
			return 0, fmt.Errorf("%s is not in its log of epoch %d", key, have.epoch.Generation)
		}
	}
	return have.epoch.Generation, nil
}

// voterDir makes the data directory of a node that has a cluster of its own.
func voterDir(t *testing.T) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	a := &Agent{log: log, cfg: Config{DataDir: t.TempDir(), Name: "n1", Advertise: netip.MustParseAddrPort("192.0.2.1:7373")}}
	a.cfg.World.complete(log)
	if err := a.found(identityDir(a.cfg)); err != nil {
		t.Fatal(err)
	}
	stores, err := consensus.OpenStores(filepath.Join(a.cfg.DataDir, raftDir), log)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.raft, err = consensus.Open(consensus.Config{
		Name: "n1", Log: stores.Log, Stable: stores.Stable, Snapshots: stores.Snapshots, Logger: log, Bootstrap: true,
		Transport: consensus.NewTransport(consensus.TransportConfig{Name: "n1", Listener: socket, Logger: log}),
	})
	if err != nil {
		t.Fatal(err)
	}
	seeded := make(chan error, 1)
	a.raft.Lead(func(ctx context.Context, _ uint64) error {
		_, err := a.plant(ctx)
		seeded <- err
		<-ctx.Done()
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.raft.Run(ctx) }()
	select {
	case err = <-seeded:
	case <-time.After(20 * time.Second):
		err = errors.New("nobody leads")
	}
	cancel()
	if err = errors.Join(err, <-ended, stores.Close()); err != nil {
		t.Fatal(err)
	}
	return a.cfg.DataDir
}

func TestARecoveryOutlivesAPowerCutAtEverySync(t *testing.T) {
	from := powerFrom + "=" + voterDir(t)
	moments := 0
	for cut := 1; ; cut++ {
		death := powerLife(t, cut, nil, from)
		if strings.Contains(string(death.Said), "ready") {
			for _, err := range powerLeft(t, death, cut, reformCheck) {
				t.Error(err)
			}
			moments++
		}
		if death.At == "" {
			break
		}
	}
	if moments < 20 {
		t.Errorf("the power was cut at %d moments: the test shows less than it should", moments)
	}
	t.Logf("%d moments", moments)
	// And it would notice.
	death := powerLife(t, 0, func(path string) bool { return strings.Contains(path, ".wal") || path == "." }, from)
	if len(powerLeft(t, death, 1, reformCheck)) == 0 {
		t.Error("nobody notices that nothing of the new log is synced")
	}
}
