package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// settingsOf is what an object asks of a target on node. A replica that is
// leaving keeps its address: it votes until the record says otherwise.
func settingsOf(obj *v1alpha1.Volume, node string) (target.Settings, error) {
	level, err := quorum.LevelOf(obj.Spec.Consistency, obj.Spec.Zones)
	if err != nil {
		return target.Settings{}, fmt.Errorf("volume %s: %w", obj.Name, err)
	}
	s := target.Settings{
		Layout:    volume.Layout{Level: level, Zones: map[quorum.ReplicaID]string{}},
		Addresses: map[quorum.ReplicaID]string{},
		Size:      uint64(obj.Spec.Size.Value()), //nolint:gosec // the schema keeps it from being negative
	}
	if ask := obj.Annotations[v1alpha1.AnnotationVerify]; obj.Status.Verification == nil || ask != obj.Status.Verification.Request {
		s.Verify = ask
	}
	if obj.Spec.MinVoters != nil {
		s.Layout.MinVoters = int(*obj.Spec.MinVoters)
	}
	if obj.Status.Target.Node == node {
		s.Layout.Zone = obj.Status.Target.Zone
	}
	replicas := slices.Clone(obj.Status.Replicas)
	slices.SortStableFunc(replicas, func(a, b v1alpha1.VolumeReplica) int {
		return cmp.Compare(distance(a, node, s.Layout.Zone), distance(b, node, s.Layout.Zone))
	})
	for _, r := range replicas {
		id := quorum.ReplicaID(r.ID)
		if r.Address != "" {
			s.Addresses[id] = r.Address
		}
		if r.Leaving != "" {
			continue
		}
		s.Layout.Replicas = append(s.Layout.Replicas, id)
		if r.Zone != "" {
			s.Layout.Zones[id] = r.Zone
		}
	}
	if len(s.Layout.Replicas) == 0 {
		return s, fmt.Errorf("volume %s: no replica is to stay", obj.Name)
	}
	return s, nil
}

// distance orders replicas by how near they are to read from.
func distance(r v1alpha1.VolumeReplica, node, zone string) int {
	switch {
	case r.Node == node:
		return 0
	case zone != "" && r.Zone == zone:
		return 1
	}
	return 2
}

// First waits for the settings to begin with. Run must be running.
func (v *Volume) First(ctx context.Context) (target.Settings, error) {
	for {
		s, changed, err := v.Settings()
		if err == nil || errors.Is(err, ErrGone) {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-changed:
		}
	}
}

// Settings are the newest, and what is closed when there are newer ones. An
// error says why the newest version of the object has none.
func (v *Volume) Settings() (target.Settings, <-chan struct{}, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.gone:
		return target.Settings{}, v.reconfigured, ErrGone
	case v.latest == nil:
		return target.Settings{}, v.reconfigured, errors.New("the Volume has not been read yet")
	}
	s, err := settingsOf(v.latest, v.o.Node)
	return s, v.reconfigured, err
}

// tellSettingsLocked tells who waits when an observed version asks for other
// settings than the one before.
func (v *Volume) tellSettingsLocked(before, now *v1alpha1.Volume) {
	if before != nil {
		a, errA := settingsOf(before, v.o.Node)
		b, errB := settingsOf(now, v.o.Node)
		if (errA == nil) == (errB == nil) && a.Equal(b) {
			return
		}
		if errB != nil {
			v.log.Warn("the Volume's settings are not followed", "error", errB)
		}
	}
	close(v.reconfigured)
	v.reconfigured = make(chan struct{})
}
