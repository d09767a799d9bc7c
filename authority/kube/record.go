package kube

import (
	"context"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

var (
	_ volume.Authority = (*Volume)(nil)
	_ target.Keeper    = (*Volume)(nil)
)

// Load reads the record from the API server itself.
func (v *Volume) Load(ctx context.Context) (volume.Record, error) {
	obj, err := v.read(ctx)
	if err != nil {
		return volume.Record{}, err
	}
	return recordOf(obj)
}

// CompareAndSwap changes the record. With a new epoch it also says, in the same
// update, who and where its target is and which attachment it admits.
func (v *Volume) CompareAndSwap(ctx context.Context, old, next volume.Record) error {
	if next.Epoch < old.Epoch {
		return fmt.Errorf("volume %s: epoch %d cannot follow %d", v.o.Volume, next.Epoch, old.Epoch)
	}
	if err := v.lockPublishing(ctx); err != nil {
		return err
	}
	defer v.unlockPublishing()
	acquires := next.Epoch != old.Epoch
	v.swapping(old, next)
	var attachment string
	err := v.update(ctx, func(obj *v1alpha1.Volume) error {
		now, err := recordOf(obj)
		if err != nil {
			return err
		}
		if !now.Equal(old) {
			return fmt.Errorf("volume %s: epoch %d of %s, expected epoch %d of %s: %w",
				v.o.Volume, now.Epoch, now.Holder, old.Epoch, old.Holder, volume.ErrConflict)
		}
		if err := mayVote(obj, old, next); err != nil {
			return err
		}
		record(obj, next)
		if acquires {
			attachment = attachmentID(obj)
			if obj.Status.Target.Node != v.o.Node {
				obj.Status.Target.Zone = "" // the operator says it anew
			}
			obj.Status.Target.Pod, obj.Status.Target.Node = v.o.Pod, v.o.Node
			obj.Status.Target.Attachment = attachment
		}
		return nil
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if acquires {
		v.holder = next.Holder
		v.publishedLocked(attachment)
	}
	if v.written = nil; next.Holder == v.holder {
		v.written = []volume.Record{next}
	}
	return nil
}

// swapping notes that the object may hold next from now on, whatever is answered.
func (v *Volume) swapping(old, next volume.Record) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.written = nil; next.Epoch == old.Epoch {
		v.written = []volume.Record{old, next}
	}
}

// Kept reads status.reservations from the API server itself.
func (v *Volume) Kept(ctx context.Context) ([]byte, error) {
	obj, err := v.read(ctx)
	if err != nil {
		return nil, err
	}
	return []byte(obj.Status.Reservations), nil
}

// Keep writes status.reservations, in an update of a version that holder holds.
func (v *Volume) Keep(ctx context.Context, holder string, b []byte) error {
	if len(b) > target.MaxKept {
		return target.ErrTooLarge
	}
	return v.update(ctx, func(obj *v1alpha1.Volume) error {
		if obj.Status.Holder != holder {
			return fmt.Errorf("volume %s is held by %q: %w", v.o.Volume, obj.Status.Holder, volume.ErrSuperseded)
		}
		if obj.Status.Reservations == string(b) {
			return errUnchanged
		}
		obj.Status.Reservations = string(b)
		return nil
	})
}

// recordOf is the record that an object's status holds. The error is a
// volume.ErrRecord: somebody has edited what only targets write.
func recordOf(obj *v1alpha1.Volume) (volume.Record, error) {
	st := &obj.Status
	r := volume.Record{
		Epoch:       history.Epoch(st.Epoch), //nolint:gosec // the schema keeps it from being negative
		Holder:      st.Holder,
		Initialized: st.Initialized,
		Level:       quorum.Level(st.Level),
		Zone:        st.LocalZone,
		Refused:     st.Refused,
		Lost:        history.Epoch(st.LostEpoch), //nolint:gosec // the schema keeps it from being negative
	}
	for _, id := range st.Voters {
		r.Voters = append(r.Voters, quorum.ReplicaID(id))
		if entry(st, id) == nil {
			return r, fmt.Errorf("%w: replica %s votes, but status.replicas does not say where it is; "+
				"put both back as they were, from a backup of the Volume if need be", volume.ErrRecord, id)
		}
	}
	for id, zone := range st.VoterZones {
		if r.Zones == nil {
			r.Zones = map[quorum.ReplicaID]string{}
		}
		r.Zones[quorum.ReplicaID(id)] = zone
	}
	return r, nil
}

func record(obj *v1alpha1.Volume, r volume.Record) {
	st := &obj.Status
	st.Epoch = int64(r.Epoch) //nolint:gosec // counts targets
	st.Holder = r.Holder
	st.Initialized = r.Initialized
	st.LostEpoch = int64(r.Lost) //nolint:gosec // an epoch that was
	st.Level = string(r.Level)
	st.LocalZone = r.Zone
	st.Refused = cut(r.Refused)
	st.Voters, st.VoterZones = nil, nil
	for _, id := range r.Voters {
		st.Voters = append(st.Voters, string(id))
	}
	for id, zone := range r.Zones {
		if st.VoterZones == nil {
			st.VoterZones = map[string]string{}
		}
		st.VoterZones[string(id)] = zone
	}
}

// entry is a replica's, nil when there is none.
func entry(st *v1alpha1.VolumeStatus, id string) *v1alpha1.VolumeReplica {
	i := slices.IndexFunc(st.Replicas, func(r v1alpha1.VolumeReplica) bool { return r.ID == id })
	if i < 0 {
		return nil
	}
	return &st.Replicas[i]
}

// mayVote denies a vote to a replica that is leaving. It holds for the version
// of the object that the record is written to; so what the operator has marked,
// and then finds without a vote, never has one again.
func mayVote(obj *v1alpha1.Volume, old, next volume.Record) error {
	for _, id := range next.Voters {
		if slices.Contains(old.Voters, id) {
			continue
		}
		if e := entry(&obj.Status, string(id)); e == nil || e.Leaving != "" {
			return fmt.Errorf("replica %s of volume %s is leaving and cannot begin to vote: %w", id, obj.Name, volume.ErrDenied)
		}
	}
	return nil
}
