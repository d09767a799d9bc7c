package replica

import (
	"errors"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// readFrom reads from the snapshot of operation of, or from the volume when
// that is 0.
func readFrom(s store.Store, of history.Seq, buf []byte, off uint64) error {
	if of == 0 {
		return s.ReadAt(buf, off)
	}
	return s.ReadSnapshot(of, buf, off)
}

// snapshotCode is codeOf where ErrNotFound is that of a snapshot.
func snapshotCode(err error) replication.Code {
	if errors.Is(err, store.ErrNotFound) {
		return replication.ErrNoSnapshot
	}
	return codeOf(err)
}

// snapshots lists the snapshots.
func (c *Core) snapshots(id uint64, reply Reply) {
	r := replication.Message{Type: replication.SnapshotList, ID: id, Seq: c.applied}
	if b := replication.EncodeSnapshots(c.store.Snapshots()); len(b) > 0 {
		r.Bufs = [][]byte{b}
	}
	reply(r)
}
