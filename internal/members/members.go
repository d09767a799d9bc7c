// Package members says what the replicas of a Volume count for, by its spec and
// status. Pure.
package members

import (
	"cmp"
	"slices"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// Quorum is what acknowledgements of the volume are counted by now; by its spec
// while no target has recorded a level.
func Quorum(v *v1alpha1.Volume) quorum.Config {
	st := &v.Status
	c := quorum.Config{Level: quorum.Level(st.Level), Zone: st.LocalZone, Zones: map[quorum.ReplicaID]string{}}
	if c.Level == "" {
		c.Level = quorum.Level(cmp.Or(v.Spec.Zones, v.Spec.Consistency))
	}
	for _, id := range st.Voters {
		c.Voters = append(c.Voters, quorum.ReplicaID(id))
	}
	for id, zone := range st.VoterZones {
		c.Zones[quorum.ReplicaID(id)] = zone
	}
	return c
}

// InSync tells which replicas are in sync.
func InSync(v *v1alpha1.Volume) func(quorum.ReplicaID) bool {
	return func(id quorum.ReplicaID) bool {
		return slices.ContainsFunc(v.Status.Replicas, func(r v1alpha1.VolumeReplica) bool {
			return r.ID == string(id) && r.State == v1alpha1.ReplicaInSync
		})
	}
}

// Floor is the least number of voters that replicas which fail may leave.
func Floor(v *v1alpha1.Volume) int {
	l := volume.Layout{}
	if v.Spec.MinVoters != nil {
		l.MinVoters = int(*v.Spec.MinVoters)
	}
	for _, r := range v.Status.Replicas {
		if r.Leaving == "" {
			l.Replicas = append(l.Replicas, quorum.ReplicaID(r.ID))
		}
	}
	return l.Floor()
}

// Votes reports whether a replica is a voter.
func Votes(st *v1alpha1.VolumeStatus, r v1alpha1.VolumeReplica) bool {
	return slices.Contains(st.Voters, r.ID)
}

// Left reports whether a replica is leaving and votes no more: nothing counts
// on it, and nothing ever will. A record that is refused does not say that.
func Left(st *v1alpha1.VolumeStatus, r v1alpha1.VolumeReplica) bool {
	return r.Leaving != "" && !Votes(st, r) && st.Refused == ""
}

// Spare is how many voters in sync can be lost, whichever they are, without
// writes having to wait: a write quorum stays, or -- then after a moment -- one
// stays once those lost were removed, which minVoters must allow. It is -1 when
// writes wait now, and 0 when nothing more is known.
func Spare(v *v1alpha1.Volume) int {
	all, inSync := Quorum(v), InSync(v)
	n, err := all.Spare(inSync)
	if err != nil {
		return 0
	}
	if n != 0 || len(all.Voters) <= Floor(v) {
		return n
	}
	for _, id := range all.Voters {
		rest := all
		rest.Voters = slices.DeleteFunc(slices.Clone(all.Voters), func(v quorum.ReplicaID) bool { return v == id })
		if left, err := rest.Spare(inSync); inSync(id) && (err != nil || left < 0) {
			return 0
		}
	}
	return 1
}
