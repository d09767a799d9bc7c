package kube

import (
	"context"
	"fmt"

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
	return recordOf(obj), nil
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
	var attachment string
	err := v.update(ctx, func(obj *v1alpha1.Volume) error {
		if now := recordOf(obj); !now.Equal(old) {
			return fmt.Errorf("volume %s: epoch %d of %s, expected epoch %d of %s: %w",
				v.o.Volume, now.Epoch, now.Holder, old.Epoch, old.Holder, volume.ErrConflict)
		}
		record(obj, next)
		if acquires {
			attachment = attachmentID(obj)
			obj.Status.Target.Pod, obj.Status.Target.Node = v.o.Pod, v.o.Node
			obj.Status.Target.Attachment = attachment
		}
		return nil
	})
	if err != nil || !acquires {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.holder = next.Holder
	v.publishedLocked(attachment)
	return nil
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

func recordOf(obj *v1alpha1.Volume) volume.Record {
	r := volume.Record{
		Epoch:       history.Epoch(obj.Status.Epoch), //nolint:gosec // the schema keeps it from being negative
		Holder:      obj.Status.Holder,
		Initialized: obj.Status.Initialized,
	}
	for _, id := range obj.Status.Voters {
		r.Voters = append(r.Voters, quorum.ReplicaID(id))
	}
	return r
}

func record(obj *v1alpha1.Volume, r volume.Record) {
	obj.Status.Epoch = int64(r.Epoch) //nolint:gosec // counts targets
	obj.Status.Holder = r.Holder
	obj.Status.Initialized = r.Initialized
	obj.Status.Voters = nil
	for _, id := range r.Voters {
		obj.Status.Voters = append(obj.Status.Voters, string(id))
	}
}
