package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// A walMeta completes, when the log is opened, what the library leaves half done
// if the process ends at a bad moment. A full segment is sealed in its file
// first and in the metadata a little later; in between, v0.4.2 reopens it as the
// one to append to, and every append is then refused as "segment is sealed".
type walMeta struct {
	metadb.BoltMetaDB
}

var _ types.MetaStore = (*walMeta)(nil)

// Load returns the metadata with an unsealed segment at its end, if any.
func (m *walMeta) Load(dir string) (types.PersistentState, error) {
	state, err := m.BoltMetaDB.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return state, err
	}
	filer := segment.NewFiler(dir, walfs.New())
	tail := state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return state, nil
	}
	w, err := filer.RecoverTail(tail)
	if errors.Is(err, fs.ErrNotExist) {
		return state, nil // the library makes it
	}
	if err != nil {
		return state, fmt.Errorf("recover the last log segment: %w", err)
	}
	defer w.Close()
	sealed, indexStart, err := w.Sealed()
	if err != nil || !sealed {
		return state, err
	}
	whole, err := indexed(dir, tail, indexStart, w.LastIndex())
	switch {
	case err != nil:
		return state, err
	case whole:
		state = rotated(state, indexStart, w.LastIndex())
	default:
		if state, err = copied(filer, state, w); err != nil {
			return state, err
		}
	}
	if err := m.CommitState(state); err != nil {
		return state, fmt.Errorf("complete log rotation: %w", err)
	}
	return state, nil
}

// indexed reports whether the index at the end of a sealed segment is that of
// the entries up to last. It is not if the write that sealed it was torn, whose
// entries count as never written.
func indexed(dir string, tail types.SegmentInfo, indexStart, last uint64) (bool, error) {
	file, err := os.Open(filepath.Join(dir, segment.FileName(tail)))
	if err != nil {
		return false, fmt.Errorf("open log segment: %w", err)
	}
	defer file.Close()
	var length [4]byte                                                     // of the index, in bytes, is the second half of its frame header
	if _, err := file.ReadAt(length[:], int64(indexStart)-4); err != nil { //nolint:gosec // an offset in a file
		return false, fmt.Errorf("read log segment: %w", err)
	}
	const entry = 4
	return last >= tail.BaseIndex && uint64(binary.LittleEndian.Uint32(length[:])) == entry*(last-tail.BaseIndex+1), nil
}

// rotated seals the last segment and begins another, whose file need not exist.
func rotated(state types.PersistentState, indexStart, last uint64) types.PersistentState {
	tail := &state.Segments[len(state.Segments)-1]
	tail.SealTime, tail.IndexStart, tail.MaxIndex = time.Now(), indexStart, last
	state.Segments = append(state.Segments, next(state, *tail, last+1))
	state.NextSegmentID++
	return state
}

// copied replaces the last segment by a copy of its entries that can be appended
// to. The library removes the file that nothing names any more.
func copied(filer *segment.Filer, state types.PersistentState, from types.SegmentWriter) (types.PersistentState, error) {
	tail := state.Segments[len(state.Segments)-1]
	fresh := next(state, tail, max(tail.BaseIndex, tail.MinIndex)) // what was compacted away stays behind
	// A copy that was not finished is in the way.
	if err := filer.Delete(fresh.BaseIndex, fresh.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return state, fmt.Errorf("remove unfinished log segment: %w", err)
	}
	to, err := filer.Create(fresh)
	if err != nil {
		return state, fmt.Errorf("copy log segment: %w", err)
	}
	defer to.Close()
	var entries []types.LogEntry
	for index := fresh.BaseIndex; index <= from.LastIndex(); index++ {
		raw, err := from.GetLog(index)
		if err != nil {
			return state, fmt.Errorf("copy log entry %d: %w", index, err)
		}
		entries = append(entries, types.LogEntry{Index: index, Data: append([]byte(nil), raw.Bs...)})
		_ = raw.Close() // gives a buffer back
	}
	if err := to.Append(entries); err != nil {
		return state, fmt.Errorf("copy log segment: %w", err)
	}
	state.Segments[len(state.Segments)-1] = fresh
	state.NextSegmentID++
	return state, nil
}

func next(state types.PersistentState, like types.SegmentInfo, base uint64) types.SegmentInfo {
	return types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: base, MinIndex: base,
		Codec: like.Codec, CreateTime: time.Now(), SizeLimit: like.SizeLimit,
	}
}
