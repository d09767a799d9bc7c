package volume

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
)

// What a volume does that a block device does not. OpSnapshot and
// OpDropSnapshot are operations of the history as writes are, and stable when
// they complete.
const (
	OpSnapshot      block.Op = 0x80 + iota // take the snapshot Name; nothing if there is one of that name
	OpDropSnapshot                         // drop the one of operation Base; nothing if there is none
	OpListSnapshots                        // set Snapshots
)

// ErrNoSnapshot completes a read of a snapshot that is not there.
var ErrNoSnapshot = errors.New("snapshot does not exist")

// Seq is the place that a completed write or snapshot has in the history. A
// snapshot whose name was taken has another one: that of the first.
func (r *Request) Seq() history.Seq { return r.seq }

// question asks a replica for what r wants to know.
func (r *Request) question(id uint64) replication.Message {
	if r.Op == OpListSnapshots {
		return replication.Message{Type: replication.Snapshots, ID: id}
	}
	return replication.Message{Type: replication.Read, ID: id, Extent: r.Extent, Base: r.Base}
}

// take takes the answer, and reports whether it is one.
func (r *Request) take(m replication.Message) bool {
	switch {
	case m.Code != replication.OK:
		return false
	case r.Op == OpListSnapshots && m.Type == replication.SnapshotList:
		list, err := m.SnapshotList()
		r.Snapshots = list
		return err == nil
	case r.Op == block.OpRead && m.Type == replication.Data:
		r.Bufs, r.Own = m.Bufs, m.Own
		return uint64(m.DataLen()) == r.Extent.Len
	}
	return false
}
