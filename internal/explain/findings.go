package explain

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Problem string // a sentence: object and cause
	Next    string // what to do
}

// Findings judges the facts, the most telling first; none when all is well.
func Findings(f *Facts) []Finding {
	var all []Finding
	for _, rule := range []func(*Facts) []Finding{
		claimFindings, deletionFindings, placementFindings, servingFindings,
		replicaFindings, settledFindings, exposedFindings, uncleanFindings, damageFindings, differFindings, secretFindings, attachmentFindings,
	} {
		all = append(all, rule(f)...)
	}
	return all
}

func one(next, problem string, args ...any) []Finding {
	return []Finding{{Problem: fmt.Sprintf(problem, args...), Next: next}}
}

func (f *Facts) age(t time.Time) string {
	if t.IsZero() {
		return "unknown time"
	}
	return duration.HumanDuration(f.Now.Sub(t))
}

// claimFindings is about a claim that has no volume.
func claimFindings(f *Facts) []Finding {
	pvc := f.Claim
	if pvc == nil || f.Volume != nil {
		return nil
	}
	if f.PV != nil && (f.PV.Spec.CSI == nil || f.PV.Spec.CSI.Driver != v1alpha1.DriverName) {
		return one("use the tools of that driver", "PersistentVolume %s is not Cask's.", f.PV.Name)
	}
	if f.PV != nil {
		return one("look for the Volume in a backup; its extents are still in the pools if nobody deleted the claim",
			"PersistentVolume %s is there but the Volume behind it is gone.", f.PV.Name)
	}
	class := "(none)"
	if pvc.Spec.StorageClassName != nil {
		class = *pvc.Spec.StorageClassName
	}
	switch {
	case f.Class == nil:
		return one("create the StorageClass, or a claim that names another (`kubectl get storageclass`)",
			"The claim asks for StorageClass %s, which does not exist.", class)
	case f.Class.Provisioner != v1alpha1.DriverName:
		return one("use a StorageClass with provisioner "+v1alpha1.DriverName,
			"StorageClass %s belongs to %s, not to Cask.", class, f.Class.Provisioner)
	case waits(f.Class) && len(f.Consumers) == 0:
		return one("start a pod that uses it; the volume is made then", "The claim waits for its first consumer, and no pod uses it.")
	}
	if e := f.lastWarning(pvc.Name); e != nil {
		return one("see the message", "The volume could not be made: %s: %s", e.Reason, oneLine(e.Message))
	}
	return one("see `kubectl -n cask-system logs deploy/cask-csi-controller --all-containers`",
		"No volume has been made for the claim since %s.", f.age(pvc.CreationTimestamp.Time))
}

func waits(c *storagev1.StorageClass) bool {
	return c.VolumeBindingMode != nil && *c.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

func (f *Facts) lastWarning(about string) *corev1.Event {
	for i := len(f.Events) - 1; i >= 0; i-- {
		if e := &f.Events[i]; e.Type == corev1.EventTypeWarning && e.InvolvedObject.Name == about {
			return e
		}
	}
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// condition returns a condition of the volume when it has this status.
func (f *Facts) condition(typ string, status metav1.ConditionStatus) *metav1.Condition {
	if f.Volume == nil {
		return nil
	}
	c := meta.FindStatusCondition(f.Volume.Status.Conditions, typ)
	if c == nil || c.Status != status {
		return nil
	}
	return c
}

func deletionFindings(f *Facts) []Finding {
	if f.Volume == nil || f.Volume.DeletionTimestamp == nil {
		return nil
	}
	var waiting []string
	for _, r := range f.Volume.Status.Replicas {
		if !r.Released {
			waiting = append(waiting, fmt.Sprintf("%s on node %s", r.ID, r.Node))
		}
	}
	since := f.age(f.Volume.DeletionTimestamp.Time)
	c := f.condition(v1alpha1.ConditionDeleting, metav1.ConditionTrue)
	switch {
	case c == nil:
		return one("see that the operator runs: `kubectl -n cask-system get deploy cask-operator`",
			"The volume is being deleted since %s, and the operator has not taken it up.", since)
	case c.Reason == v1alpha1.ReasonReleasingExtents && len(waiting) > 0:
		return one("bring those nodes back, or remove them from the cluster for good; then deletion goes on",
			"The volume is being deleted since %s and waits for the extents of %s.", since, strings.Join(waiting, ", "))
	}
	return one("wait; the message says for what", "The volume is being deleted since %s: %s: %s", since, c.Reason, c.Message)
}

func placementFindings(f *Facts) []Finding {
	c := f.condition(v1alpha1.ConditionPlaced, metav1.ConditionFalse)
	if c == nil {
		return nil
	}
	if len(f.Volume.Status.Replicas) > 0 {
		return one("see `kubectl cask pools`; it gets a place as soon as there is room", "A further replica has no place: %s: %s", c.Reason, c.Message)
	}
	return one("see `kubectl cask pools`; the volume is placed as soon as there is room", "The replicas have no place: %s: %s", c.Reason, c.Message)
}

func servingFindings(f *Facts) []Finding {
	v := f.Volume
	if v == nil || len(v.Status.Replicas) == 0 || v.DeletionTimestamp != nil {
		return nil
	}
	if c := f.condition(v1alpha1.ConditionRecorded, metav1.ConditionFalse); c != nil {
		return one("do as the message says", "The Volume's record is not what its target wrote: %s", c.Message)
	}
	if v.Status.Refused != "" {
		return one("put status.voters, level, voterZones and localZone of the Volume back as they were last, status.epoch above every epoch that "+
			"the message names, and only then remove status.refused (`kubectl edit volume "+v.Name+" --subresource=status`)",
			"No target goes by the Volume's record, so that nothing is lost: %s", v.Status.Refused)
	}
	pod := f.targetPod()
	switch {
	case pod == nil && v.Status.Target.Address != "":
		return one("see that the operator runs, and `kubectl -n cask-system describe deploy "+v.Name+"-ctrl`", "There is no target pod: nobody serves the volume.")
	case pod == nil:
		return one("wait some seconds; if it stays so, see that the operator runs", "The operator has not made the target yet.")
	case !podReady(pod):
		if why, next := f.podTrouble(pod); why != "" {
			return one(next, "The target pod %s does not serve: %s.", pod.Name, why)
		}
	}
	if c := f.condition(v1alpha1.ConditionServing, metav1.ConditionFalse); c != nil {
		return one("applications wait and lose nothing; see the replicas below", "I/O is suspended since %s: %s: %s",
			f.age(c.LastTransitionTime.Time), c.Reason, c.Message)
	}
	return nil
}

// settledFindings is about what the spec asks for and is not yet so; replicas
// that are not in sync are found elsewhere.
func settledFindings(f *Facts) []Finding {
	c := f.condition(v1alpha1.ConditionSettled, metav1.ConditionFalse)
	if c == nil || f.Volume.DeletionTimestamp != nil || c.Reason == "ReplicaDoesNotVote" {
		return nil
	}
	next := "wait; the message says for what"
	if c.Reason == "ZoneUnknown" || c.Reason == "SettingsRefused" {
		next = "do as the message says"
	}
	return one(next, "The volume is not yet as its spec says, since %s: %s: %s", f.age(c.LastTransitionTime.Time), c.Reason, c.Message)
}

func exposedFindings(f *Facts) []Finding {
	if f.Volume == nil || f.Volume.Status.Exposed == 0 {
		return nil
	}
	return one("set spec.consistency to quorum if that is too much to lose", "Up to %d acknowledged writes were on one replica only, within the last seconds: "+
		"its loss would have lost them, as consistency one allows.", f.Volume.Status.Exposed)
}

func uncleanFindings(f *Facts) []Finding {
	c := f.condition(v1alpha1.ConditionPrefix, metav1.ConditionFalse)
	if c == nil {
		return nil
	}
	return one("delete the pods that had it mounted before, so that it is attached anew: their I/O fails until then; "+
		"then check the application's data (fsck, the database's own check), or restore a backup",
		"The volume was reopened after an unclean stop and may miss unflushed writes: %s", c.Message)
}

func damageFindings(f *Facts) []Finding {
	c := f.condition(v1alpha1.ConditionIntact, metav1.ConditionFalse)
	if c == nil {
		return nil
	}
	return one("look at the disk of that replica's node; a replica that cannot be repaired in place must be replaced",
		"Blocks cannot be read: %s", c.Message)
}

func differFindings(f *Facts) []Finding {
	c := f.condition(v1alpha1.ConditionSame, metav1.ConditionFalse)
	if c == nil {
		return nil
	}
	return one("find out which replica is right: by a snapshot, a backup or the application's own check; then have the wrong one made anew: "+
		"annotate the Volume with "+v1alpha1.AnnotationReplace+"=ID", "Replicas that should be the same are not: %s", c.Message)
}

func secretFindings(f *Facts) []Finding {
	c := f.condition(v1alpha1.ConditionSecret, metav1.ConditionFalse)
	if c == nil {
		return nil
	}
	return one("correct the Secret; it is looked at every few seconds", "Hosts cannot prove themselves: %s.", c.Message)
}

func attachmentFindings(f *Facts) []Finding {
	v := f.Volume
	if v == nil || v.DeletionTimestamp != nil {
		return nil
	}
	if fenced := v.Annotations[v1alpha1.AnnotationFenced]; fenced != "" {
		return one("the application moves to another node, or gets the volume back when the node returns",
			"The attachment was withdrawn from a failed node: %s.", fenced)
	}
	a := v.Spec.Attachment
	if a == nil {
		return nil
	}
	var all []Finding
	for _, p := range f.Consumers {
		if p.Spec.NodeName != "" && p.Spec.NodeName != a.Node && p.Status.Phase == corev1.PodPending {
			all = append(all, one("stop the pod that uses it there, or schedule both on one node: one node at a time may have it",
				"Pod %s waits on node %s, but the volume is attached to node %s.", p.Name, p.Spec.NodeName, a.Node)...)
		}
	}
	if n := f.node(a.Node); n != nil {
		if since, bad := notReadySince(n); bad {
			all = append(all, one("wait for the node, or for the operator to withdraw it (some seconds)",
				"The volume is attached to node %s, which is not ready since %s.", a.Node, f.age(since))...)
		}
	}
	return all
}
