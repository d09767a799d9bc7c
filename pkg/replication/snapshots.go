package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

const maxSnapshot = 17 + store.MaxName // bytes of one in a SnapshotList

// A SnapshotList fits into the data of a frame.
const _ = uint(MaxData - store.MaxSnapshots*maxSnapshot)

// EncodeSnapshots is the data of a SnapshotList.
func EncodeSnapshots(list []store.SnapshotInfo) []byte {
	b := make([]byte, 0, len(list)*maxSnapshot)
	for _, s := range list {
		b = binary.LittleEndian.AppendUint64(b, uint64(s.Seq))
		b = binary.LittleEndian.AppendUint64(b, s.Size)
		b = append(b, byte(len(s.Name)))
		b = append(b, s.Name...)
	}
	return b
}

// SnapshotList is what a SnapshotList or a Rebuild carries.
func (m *Message) SnapshotList() ([]store.SnapshotInfo, error) {
	if len(m.Bufs) == 0 {
		return nil, nil
	}
	return DecodeSnapshots(m.Bufs[0])
}

// DecodeSnapshots reads the data of a SnapshotList.
func DecodeSnapshots(b []byte) ([]store.SnapshotInfo, error) {
	c := &cursor{b: b}
	var out []store.SnapshotInfo
	for len(c.b) > 0 && len(out) < store.MaxSnapshots {
		s := store.SnapshotInfo{Seq: history.Seq(c.u64()), Size: uint64(c.u64())}
		s.Name = string(c.take(int(c.take(1)[0])))
		if c.short || store.CheckName(s.Name) != nil {
			return nil, fmt.Errorf("snapshot %d of a list: %w", len(out)+1, ErrFrame)
		}
		out = append(out, s)
	}
	if len(c.b) > 0 {
		return nil, fmt.Errorf("more than %d snapshots: %w", store.MaxSnapshots, ErrFrame)
	}
	return out, nil
}
