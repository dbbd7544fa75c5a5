package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skein-dev/skein/agent/gossip"
	"github.com/skein-dev/skein/agent/object"
	"github.com/skein-dev/skein/consensus/state"
	logv1 "github.com/skein-dev/skein/proto/log/v1"
)

// DefaultFormat is the newest form of objects, log entries and files that this
// build reads and writes. It reads all before it.
const DefaultFormat = object.FormatPods

// The cluster's format is the newest that may be written. It is raised when every
// node reads more, and never lowered: until then a node can go back to the build
// that it had. It stands on the Keyring, which every build follows, and beside
// the data of every node, so that a build that is too old for it finds out before
// it reads anything else.
const (
	formatAnnotation = "skein.dev/format"
	formatFile       = "format"
	firstFormat      = 1 // where nothing says otherwise
	raiseEvery       = 5 * time.Second
)

// tooNew refuses to touch what a newer build may have written.
func tooNew(what string, have, reads uint32) error {
	return &UsageError{
		Text: fmt.Sprintf("%s has format %d, and this build reads up to %d", what, have, reads),
		Hint: "use the newer build again: a format that was raised is never lowered",
	}
}

// dataFormat is the format of a data directory.
func dataFormat(dir string) (uint32, error) {
	path := filepath.Join(dir, formatFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return firstFormat, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the format of the data directory: %w", err)
	}
	return parseFormat(path, strings.TrimSpace(string(text)))
}

func parseFormat(what, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n < firstFormat {
		return 0, fmt.Errorf("%s: %q is no format", what, text)
	}
	return uint32(n), nil
}

// checkFormat refuses a data directory that this build is too old for.
func checkFormat(cfg Config) error {
	have, err := dataFormat(cfg.DataDir)
	if err == nil && have > cfg.Format {
		err = tooNew(cfg.DataDir, have, cfg.Format)
	}
	return err
}

// clusterFormat is the format that a store says its cluster has.
func clusterFormat(s *state.Store) (format uint32, ring *object.Keyring, err error) {
	row, ok := s.Get(state.Key{Kind: object.KindKeyring, Name: object.KeyringName})
	if !ok {
		return firstFormat, nil, nil
	}
	if ring, err = object.Decode[object.Keyring](row); err != nil {
		return 0, nil, err
	}
	text := ring.Annotations[formatAnnotation]
	if text == "" {
		return firstFormat, ring, nil
	}
	format, err = parseFormat("the cluster", text)
	return format, ring, err
}

// keepFormat notes beside the data which format the cluster has, and ends an
// agent that is too old for it: a newcomer, or one that was away.
func (a *Agent) keepFormat() error {
	format, _, err := clusterFormat(a.replica.Store())
	if err != nil {
		a.log.Error("cannot read the cluster's format", "err", err)
		return nil
	}
	if format > a.cfg.Format {
		return tooNew("the cluster", format, a.cfg.Format)
	}
	if have, err := dataFormat(a.cfg.DataDir); err != nil || format <= have {
		return err
	}
	path := filepath.Join(a.cfg.DataDir, formatFile)
	err = a.disk.Do(func() error { return writeFile(path, []byte(strconv.FormatUint(uint64(format), 10)+"\n")) })
	if err != nil {
		return fmt.Errorf("keep the format of the data directory: %w", err)
	}
	a.log.Info("format raised", "format", format)
	return nil
}

// raiseFormat raises the cluster's format, while this node leads, once every
// node is there and reads a newer one, and did so when it was looked at before:
// a machine that is off, or has another build, may not be known to be so yet.
func (a *Agent) raiseFormat(ctx context.Context, _ uint64) error {
	again := time.NewTicker(raiseEvery)
	defer again.Stop()
	for before := uint32(0); ; {
		format, ring, err := clusterFormat(a.raft.Store())
		if err == nil && format >= a.cfg.Format {
			return nil
		}
		now := a.everybodyReads()
		if both := min(now, before); err == nil && ring != nil && both > format {
			err = a.writeFormat(ctx, ring, both)
		}
		before = now
		if err != nil {
			a.log.Warn("cannot raise the format", "err", err) // it is tried again
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		}
	}
}

// everybodyReads is the newest format that all nodes read, 0 while one of them
// is not there to be asked.
func (a *Agent) everybodyReads() uint32 {
	all := a.cfg.Format
	for _, row := range a.raft.Store().List(object.KindNode, "", "") {
		if row.Key.Name == a.cfg.Name {
			continue
		}
		m, ok := a.gossip.Member(row.Key.Name)
		if !ok || m.State != gossip.StateAlive {
			return 0
		}
		all = min(all, m.Meta.Format)
	}
	return all
}

func (a *Agent) writeFormat(ctx context.Context, ring *object.Keyring, format uint32) error {
	if ring.Annotations == nil {
		ring.Annotations = map[string]string{}
	}
	ring.Annotations[formatAnnotation] = strconv.FormatUint(uint64(format), 10)
	op, err := object.Put(ring, object.Version(ring))
	if err != nil {
		return err
	}
	_, err = a.raft.Commit(ctx, &logv1.Txn{Ops: []*logv1.Op{op}})
	return err
}
