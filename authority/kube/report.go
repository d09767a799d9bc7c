package kube

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/target"
)

var _ target.Reporter = (*Volume)(nil)

// maxMessage bounds a condition's or replica's message.
const maxMessage = 1024

// Report writes what the target sees into the Volume's status, and an Event for
// each condition that changed. It writes nothing when nothing changed.
func (v *Volume) Report(ctx context.Context, s target.Status) error {
	var news []metav1.Condition
	var about *v1alpha1.Volume
	err := v.update(ctx, func(obj *v1alpha1.Volume) error {
		switch epoch := uint64(obj.Status.Epoch); { //nolint:gosec // the schema keeps it from being negative
		case epoch < s.Epoch:
			return fmt.Errorf("epoch %d of this target is not recorded yet, volume %s is at %d", s.Epoch, v.o.Volume, epoch)
		case epoch > s.Epoch:
			return fmt.Errorf("volume %s is at epoch %d, this target at %d: %w", v.o.Volume, obj.Status.Epoch, s.Epoch, ErrSuperseded)
		}
		before := obj.Status.DeepCopy()
		about = obj
		if s.Reason == target.ReasonRecordRefused {
			news = refused(obj, s)
		} else {
			news = v.describe(obj, s)
		}
		if equality.Semantic.DeepEqual(before, &obj.Status) {
			return errUnchanged
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, c := range news {
		v.tell(ctx, about, c)
	}
	return nil
}

// refused says that no target goes by the record. Whoever says so holds no
// epoch: nothing else is its to write.
func refused(obj *v1alpha1.Volume, s target.Status) []metav1.Condition {
	obj.Status.State = state(&obj.Status, false, false)
	return set(obj, []metav1.Condition{{Type: v1alpha1.ConditionServing, Status: metav1.ConditionFalse, Reason: s.Reason, Message: s.Message}})
}

// describe fills in the target's fields and returns the conditions that
// changed.
func (v *Volume) describe(obj *v1alpha1.Volume, s target.Status) []metav1.Condition {
	st := &obj.Status
	st.Target.Pod, st.Target.Node = v.o.Pod, v.o.Node
	st.Change, st.Exposed = cut(s.Change), int64(min(s.Exposed, 1<<62)) //nolint:gosec // bounded
	voters, votersInSync := s.Voting()
	st.Voting = fmt.Sprintf("%d/%d", votersInSync, voters)
	inSync, staying := 0, 0
	healthy := metav1.Condition{Type: v1alpha1.ConditionHealthy, Status: metav1.ConditionTrue, Reason: "AllInSync", Message: "every replica is in sync"}
	for i := range st.Replicas {
		r := &st.Replicas[i]
		describeReplica(r, s.Replicas)
		if r.Leaving != "" {
			continue
		}
		staying++
		if r.State == v1alpha1.ReplicaInSync {
			inSync++
		} else if healthy.Status == metav1.ConditionTrue {
			healthy = unhealthy(r)
		}
	}
	st.InSync = fmt.Sprintf("%d/%d", inSync, staying)
	st.State = state(st, s.Serving, inSync == staying)
	if s.Size != 0 {
		st.Size = resource.NewQuantity(int64(s.Size), resource.BinarySI) //nolint:gosec // at most the schema's
	}
	serving := metav1.Condition{Type: v1alpha1.ConditionServing, Status: metav1.ConditionFalse, Reason: camel(s.Reason, "NotServing"), Message: s.Message}
	if s.Serving {
		serving.Status, serving.Reason = metav1.ConditionTrue, camel(s.Reason, "Serving")
	}
	return set(obj, append([]metav1.Condition{serving, healthy, intact(s.Replicas), settled(obj, s), resized(s)}, append(complete(st, s), verified(st, s.Verified)...)...))
}

// verified notes the last comparison of the replicas. What an earlier target found
// stays until this one has compared them.
func verified(st *v1alpha1.VolumeStatus, v *target.Verification) []metav1.Condition {
	if v == nil {
		return nil
	}
	out := &v1alpha1.VolumeVerification{Request: v.Request, Ended: metav1.NewTime(v.Ended.Truncate(time.Second)), Failed: cut(v.Failed), Seq: int64(v.Seq), //nolint:gosec // as Epoch
		HeldBytes: signed(v.Held), ReadBytes: signed(v.Read), ComparedBytes: signed(v.Compared), UnreadableBytes: signed(v.Unreadable)}
	for _, id := range v.Replicas {
		out.Replicas = append(out.Replicas, string(id))
	}
	for _, d := range v.Differ {
		out.Differ = append(out.Differ, v1alpha1.VolumeDifference{ID: string(d.Replica), Bytes: signed(d.Extents.Bytes()), Extents: cut(fmt.Sprint(d.Extents))})
	}
	if st.Verification != nil {
		out.Request = cmp.Or(out.Request, st.Verification.Request)
	}
	st.Verification = out
	switch {
	case v.Failed != "":
		return nil // what was known before still is
	case len(v.Differ) > 0:
		return []metav1.Condition{{Type: v1alpha1.ConditionSame, Status: metav1.ConditionFalse, Reason: "ReplicasDiffer", Message: v.Text()}}
	}
	return []metav1.Condition{{Type: v1alpha1.ConditionSame, Status: metav1.ConditionTrue, Reason: "Compared", Message: v.Text()}}
}

// signed is n as the API has it.
func signed(n uint64) int64 { return int64(min(n, 1<<62)) } //nolint:gosec // bounded

// complete stays False until a person has dealt with it.
func complete(st *v1alpha1.VolumeStatus, s target.Status) []metav1.Condition {
	if s.Unclean != "" {
		return []metav1.Condition{{Type: v1alpha1.ConditionPrefix, Status: metav1.ConditionFalse, Reason: "UncleanRecovery", Message: s.Unclean}}
	}
	if meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionPrefix) == nil {
		return []metav1.Condition{{Type: v1alpha1.ConditionPrefix, Status: metav1.ConditionTrue, Reason: "Complete", Message: "no write that was flushed is missing"}}
	}
	return nil
}

// settled says whether level and voters are as the spec asks, and if not what
// is under way or missing.
func settled(obj *v1alpha1.Volume, s target.Status) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionSettled, Status: metav1.ConditionFalse}
	st := &obj.Status
	_, err := settingsOf(obj, st.Target.Node)
	switch {
	case err != nil:
		c.Reason, c.Message = "SettingsRefused", err.Error()
	case s.Settled && s.Change == "":
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, "AsSpecified", "level and voters are as the spec says"
	case s.Change != "":
		c.Reason, c.Message = "Changing", s.Change
	default:
		c.Reason, c.Message = missing(obj, s)
	}
	return c
}

// resized says whether the volume has the size that it is to have.
func resized(s target.Status) metav1.Condition {
	if s.Resizing != "" {
		return metav1.Condition{Type: v1alpha1.ConditionResized, Status: metav1.ConditionFalse, Reason: camel(s.Resize, "Resizing"), Message: s.Resizing}
	}
	return metav1.Condition{Type: v1alpha1.ConditionResized, Status: metav1.ConditionTrue, Reason: "Resized", Message: "the size is what the spec says"}
}

// missing says what the next step towards the spec waits for.
func missing(obj *v1alpha1.Volume, s target.Status) (reason, message string) {
	st := &obj.Status
	for i := range st.Replicas {
		r := &st.Replicas[i]
		votes := slices.Contains(st.Voters, r.ID)
		switch {
		case r.Leaving == "" && !votes && r.State != v1alpha1.ReplicaInSync:
			return "ReplicaDoesNotVote", fmt.Sprintf("replica %s on %s begins to vote when it is in sync; it is %s", r.ID, r.Node, r.State)
		case r.Leaving == "" && r.Zone == "" && obj.Spec.Zones != "":
			return "ZoneUnknown", fmt.Sprintf("node %s of replica %s has no label topology.kubernetes.io/zone, which zones: %s needs; "+
				"label it", r.Node, r.ID, obj.Spec.Zones)
		case r.Leaving != "" && votes:
			return "ReplicaLeaves", fmt.Sprintf("replica %s on %s still votes: enough others have to be in sync before it leaves, and minVoters to stay", r.ID, r.Node)
		}
	}
	return "LevelPending", fmt.Sprintf("the level is %s; it changes when enough voters are in sync: %s are", s.Level, st.Voting)
}

// intact says whether replicas have damage, or had some that was repaired.
func intact(rs []target.ReplicaStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionIntact, Status: metav1.ConditionTrue, Reason: "NoDamage", Message: "no replica returned bad data"}
	for _, r := range rs {
		switch {
		case r.Trouble != "":
			return metav1.Condition{Type: v1alpha1.ConditionIntact, Status: metav1.ConditionFalse, Reason: "Damaged",
				Message: fmt.Sprintf("replica %s: %s", r.ID, r.Trouble)}
		case r.Repair != "":
			c.Reason, c.Message = "Repaired", fmt.Sprintf("replica %s: %s", r.ID, r.Repair)
		}
	}
	return c
}

// set writes conditions and returns those that say something new.
func set(obj *v1alpha1.Volume, conditions []metav1.Condition) []metav1.Condition {
	var news []metav1.Condition
	for _, c := range conditions {
		c.Message = cut(c.Message)
		c.ObservedGeneration = obj.Generation
		old := meta.FindStatusCondition(obj.Status.Conditions, c.Type)
		if old == nil && c.Status != metav1.ConditionTrue || old != nil && (old.Status != c.Status || old.Reason != c.Reason) {
			news = append(news, c)
		}
		meta.SetStatusCondition(&obj.Status.Conditions, c)
	}
	return news
}

func describeReplica(r *v1alpha1.VolumeReplica, all []target.ReplicaStatus) {
	i := slices.IndexFunc(all, func(s target.ReplicaStatus) bool { return string(s.ID) == r.ID })
	if i < 0 {
		r.State, r.Reason, r.Message = v1alpha1.ReplicaUnknown, "", ""
		if r.Leaving != "" {
			r.Message = "it no longer votes, and leaves: " + r.Leaving
		}
		return
	}
	s := all[i]
	r.State, r.Reason, r.Message = s.State, s.Reason, cut(s.Message)
	if s.Total > 0 { // in tenths: a status is no progress bar
		r.Message = cut(strings.TrimSpace(fmt.Sprintf("%s %d0%% done", s.Message, min(s.Done, s.Total)*10/s.Total)))
	}
}

func unhealthy(r *v1alpha1.VolumeReplica) metav1.Condition {
	message := fmt.Sprintf("replica %s on %s is %s", r.ID, r.Node, r.State)
	if r.Reason != "" {
		message += " (" + r.Reason + ")"
	}
	return metav1.Condition{Type: v1alpha1.ConditionHealthy, Status: metav1.ConditionFalse, Reason: "Replica" + r.State, Message: message}
}

// state sums up; a volume that has never served is pending, not suspended.
func state(st *v1alpha1.VolumeStatus, serving, inSync bool) string {
	switch {
	case st.State == v1alpha1.VolumeDeleting:
		return v1alpha1.VolumeDeleting
	case serving && inSync:
		return v1alpha1.VolumeHealthy
	case serving:
		return v1alpha1.VolumeDegraded
	case !st.Initialized && (st.State == v1alpha1.VolumePending || st.State == ""):
		return v1alpha1.VolumePending
	}
	return v1alpha1.VolumeSuspended
}

// validReason is what a condition's reason must look like: the API server
// refuses the whole status otherwise.
var validReason = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_,:]{0,100}[A-Za-z0-9_])?$`)

// camel is reason, or instead when a condition cannot have it.
func camel(reason, instead string) string {
	if !validReason.MatchString(reason) {
		return instead
	}
	return reason
}

func cut(message string) string {
	return strings.ToValidUTF8(message[:min(len(message), maxMessage)], "")
}

// tell makes an Event; the condition says the same, so a failure is logged only.
func (v *Volume) tell(ctx context.Context, about *v1alpha1.Volume, c metav1.Condition) {
	kind := corev1.EventTypeNormal
	if c.Status != metav1.ConditionTrue {
		kind = corev1.EventTypeWarning
	}
	now := metav1.Now()
	message := c.Message
	if message == "" {
		message = c.Type + " is " + string(c.Status)
	}
	e := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, GenerateName: v.o.Volume + "."},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "Volume", Name: about.Name, UID: about.UID, ResourceVersion: about.ResourceVersion,
		},
		Reason: c.Reason, Message: message, Type: kind,
		Source:         corev1.EventSource{Component: "cask-target", Host: v.o.Node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		ReportingController: "cask-target", ReportingInstance: v.o.Pod,
	}
	if err := v.api.event(ctx, e); err != nil {
		v.log.Warn("cannot write an event", "reason", c.Reason, "error", err)
	}
}
