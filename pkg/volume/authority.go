package volume

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/quorum"
)

// Record is the one fact about a volume that lives outside its replicas: who
// may order operations, and which replicas count. It changes by
// compare-and-swap only.
type Record struct {
	Epoch       history.Epoch      // of the newest target
	Holder      string             // instance that acquired Epoch
	Initialized bool               // operations may exist: a blank replica counts for nothing
	Voters      []quorum.ReplicaID // ascending

	// What Voters, and all that was ever acknowledged, are to be counted by.
	// Empty in the record of a volume that was never under a Layout.
	Level quorum.Level                `json:",omitempty"`
	Zones map[quorum.ReplicaID]string `json:",omitempty"` // of Voters
	Zone  string                      `json:",omitempty"` // whose voters count at the level local
}

// Equal reports whether two records are the same.
func (r Record) Equal(o Record) bool {
	return r.Epoch == o.Epoch && r.Holder == o.Holder &&
		r.Initialized == o.Initialized && slices.Equal(r.Voters, o.Voters) &&
		r.Level == o.Level && r.Zone == o.Zone && maps.Equal(r.Zones, o.Zones)
}

// ErrConflict is returned by CompareAndSwap when the record is not the old one.
var ErrConflict = errors.New("the volume's record was changed by another")

// Authority keeps the Record: a file in local mode, the Volume's status in a
// cluster.
type Authority interface {
	Load(ctx context.Context) (Record, error)
	// CompareAndSwap stores next if the record still equals old; otherwise
	// ErrConflict. Any other error leaves open whether it was stored, or
	// will be: but never after a later change.
	CompareAndSwap(ctx context.Context, old, next Record) error
}
