package volume

import (
	"context"
	"errors"
	"fmt"
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

	// Lost is the epoch of the last recovery that may have lost acknowledged
	// writes. Hosts' sessions that began before it was recorded are over. 0:
	// there was none.
	Lost history.Epoch `json:",omitempty"`

	// What Voters, and all that was ever acknowledged, are to be counted by.
	// Empty in the record of a volume that was never under a Layout.
	Level quorum.Level                `json:",omitempty"`
	Zones map[quorum.ReplicaID]string `json:",omitempty"` // of Voters
	Zone  string                      `json:",omitempty"` // whose voters count at the level local

	// Refused says why no target is to go by this record; see Refuse.
	Refused string `json:",omitempty"`
}

// Equal reports whether two records are the same.
func (r Record) Equal(o Record) bool {
	return r.Epoch == o.Epoch && r.Holder == o.Holder &&
		r.Initialized == o.Initialized && r.Lost == o.Lost && slices.Equal(r.Voters, o.Voters) &&
		r.Level == o.Level && r.Zone == o.Zone && maps.Equal(r.Zones, o.Zones) && r.Refused == o.Refused
}

// ErrRecord is the class of a record that no target goes by: it cannot have
// been written by one, or is known not to be the newest.
var ErrRecord = errors.New("the volume's record is refused")

// Check says what is wrong with a record that was edited by hand or marked by
// Refuse. The error is an ErrRecord.
func (r Record) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRecord, fmt.Sprintf(format, args...))
	}
	if r.Refused != "" {
		return bad("%s", r.Refused)
	}
	for i, v := range r.Voters {
		if v == "" || i > 0 && r.Voters[i-1] >= v {
			return bad("its voters %q are not distinct and in order", r.Voters)
		}
	}
	for v := range r.Zones {
		if !slices.Contains(r.Voters, v) {
			return bad("it has a zone of %q, which does not vote", v)
		}
	}
	switch {
	case r.Initialized && r.Epoch == 0:
		return bad("operations may exist, but no target ever had an epoch")
	case r.Zone != "" && r.Level != quorum.Local:
		return bad("the level %q counts no zone %q", r.Level, r.Zone)
	}
	c := r.config()
	if c.Level == "" {
		c.Level = quorum.Quorum
	}
	if _, err := c.System(); err != nil {
		return bad("%v", err)
	}
	return nil
}

// Refuse marks a record that is still this instance's although the instance
// was told that it is superseded: since targets change the record before
// anything else, replicas or the instance know of a newer one. Nobody takes an
// epoch from it until a person has put the right one back; else each further try
// would come closer to outbidding the replicas.
func (r Record) Refuse(instance string, why error) (marked Record, refuse bool) {
	if r.Holder != instance || r.Refused != "" {
		return r, false
	}
	r.Refused = why.Error()
	return r, true
}

// ErrConflict is returned by CompareAndSwap when the record is not the old one.
var ErrConflict = errors.New("the volume's record was changed by another")

// ErrDenied is returned by CompareAndSwap for a voter that must not be added: it
// is about to leave for good.
var ErrDenied = errors.New("the change of the volume's record is denied")

// Authority keeps the Record: a file in local mode, the Volume's status in a
// cluster.
type Authority interface {
	Load(ctx context.Context) (Record, error)
	// CompareAndSwap stores next if the record still equals old; otherwise
	// ErrConflict. Any other error leaves open whether it was stored, or
	// will be: but never after a later change. ErrDenied says that neither this
	// nor any earlier try of the same swap was stored, or will be.
	CompareAndSwap(ctx context.Context, old, next Record) error
}
