package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// recordVersion is raised when an older Cask could not read the record
// rightly; a replica never opens a record newer than its own version. Version 2
// has Lost, version 3 Kept; a record without is still written as 1.
const recordVersion = 3

// record is what a replica keeps beside the content, as JSON in the store's
// metadata: who it is, what it has promised, and whether it counts.
type record struct {
	Version    int                    `json:"version"`
	Volume     string                 `json:"volume"`
	Replica    string                 `json:"replica"`
	Promised   history.Epoch          `json:"promised"`
	Membership replication.Membership `json:"membership"`
	History    history.History        `json:"history,omitempty"`
	// Begun is the epoch of the last Begin: in later ones it has acknowledged
	// nothing. 0: not known.
	Begun history.Epoch `json:"begun,omitempty"`
	// Base is the last operation known to be common while Rebuilding.
	Base history.Seq `json:"base,omitempty"`
	// Copied is how far, in bytes, a rebuild has come: the content below it
	// differs from History at the mark only in what changed after Floor, or
	// in nothing when Exact.
	Copied uint64      `json:"copied,omitempty"`
	Floor  history.Seq `json:"floor,omitempty"`
	Exact  bool        `json:"exact,omitempty"`
	// Kept is set while Rebuilding when the store keeps the prefix that was
	// given up. KeptBase is the lowest Base since.
	Kept     bool        `json:"kept,omitempty"`
	KeptBase history.Seq `json:"keptBase,omitempty"`
	// Running is set while a process has the store open: found set at
	// start, the process before lost its memory.
	Running bool `json:"running,omitempty"`
	// Suspect is set from such a start until the next Begin.
	Suspect bool `json:"suspect,omitempty"`
	// Lost is what cannot be read although the store can: see damage.go.
	Lost block.Set `json:"lost,omitempty"`
	// LostIn is the same of snapshots.
	LostIn []lostIn `json:"lostIn,omitempty"`
}

func (r record) marshal() ([]byte, error) {
	r.Version = 1
	if len(r.Lost) > 0 || len(r.LostIn) > 0 {
		r.Version = 2
	}
	if r.Kept {
		r.Version = recordVersion
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) > store.MaxMeta {
		err = fmt.Errorf("record of replica %s is %d bytes, at most %d", r.Replica, len(b), store.MaxMeta)
	}
	return b, err
}

// errForeign is the class of a record that is another's, or too new.
var errForeign = errors.New("extent belongs to another")

func unmarshalRecord(b []byte, id Identity) (record, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("record of replica %s of volume %s: %v: %w", id.Replica, id.Volume, err, store.ErrCorrupt)
	}
	switch {
	case r.Version > recordVersion:
		return r, fmt.Errorf("extent was written by a newer Cask (record version %d, this one reads up to %d); upgrade first: %w", r.Version, recordVersion, errForeign)
	case r.Volume != id.Volume || r.Replica != id.Replica:
		return r, fmt.Errorf("extent holds replica %s of volume %s, not %s of %s; put the right extent in place: %w",
			r.Replica, r.Volume, id.Replica, id.Volume, errForeign)
	case len(r.History) > 0 && !r.History.Valid(), r.Membership > replication.Rebuilding, r.Membership == replication.Blank:
		return r, fmt.Errorf("record of replica %s of volume %s makes no sense: %w", id.Replica, id.Volume, store.ErrCorrupt)
	case len(r.Lost) > maxLost, len(r.LostIn) > maxLost, slices.ContainsFunc(r.Lost, func(e block.Extent) bool { return e.End() < e.Off }):
		return r, fmt.Errorf("record of replica %s of volume %s names what cannot be lost: %w", id.Replica, id.Volume, store.ErrCorrupt)
	}
	r.Lost = block.SetOf(r.Lost...)
	return r, nil
}
