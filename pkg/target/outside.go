package target

import (
	"context"

	"github.com/cask-storage/cask/pkg/quorum"
)

// Status is what a target tells people, on transitions only.
type Status struct {
	Epoch    uint64
	Serving  bool   // has a quorum and accepts I/O
	Reason   string // CamelCase, why not Serving; "Serving" when it is
	Message  string // object, cause, next step
	Unclean  string // not empty: the volume was reopened from the best copy, and why
	Level    string // in force
	Settled  bool   // level and voters are as they are to be
	Change   string // of level or voters, under way
	Size     uint64 // that hosts may use, bytes; 0: not known yet
	Resizing string // not empty: why the size is not yet what it is to be,
	Resize   string // and the reason, CamelCase
	Exposed  uint64 // acknowledged operations that one voter alone had lately; order of magnitude
	Replicas []ReplicaStatus
	Verified *Verification // the last one since the target started, nil: none
}

// ReasonRecordRefused is the Reason of a target that does not go by the
// volume's record. It holds no epoch.
const ReasonRecordRefused = "RecordRefused"

// ReplicaStatus is one replica as the target sees it.
type ReplicaStatus struct {
	ID      quorum.ReplicaID
	Voter   bool
	State   string // api/v1alpha1's Replica… states
	Reason  string // CamelCase
	Message string
	// Bytes that could not be read there since the target started: Found in
	// all, Healed from another replica, Damaged still.
	Found, Healed, Damaged uint64
	Repair                 string // a late repair: where, and from which replica
	Trouble                string // not empty: damage that stays, and what to do
	// Progress of a rebuild, bytes; zero otherwise.
	Done, Total uint64
}

// Reporter publishes a Status; it must not block for long.
type Reporter interface {
	Report(ctx context.Context, s Status) error
}

// Access decides which hosts may connect.
type Access interface {
	// Admit returns nil when the host of this NQN may use the volume now,
	// else an error that says who may.
	Admit(ctx context.Context, hostNQN string) error
	// Changed is closed, and replaced, when an answer may have changed;
	// established connections are then asked about again.
	Changed() <-chan struct{}
}
