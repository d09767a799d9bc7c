package nodefailure

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// recheck is how often waiting volumes are looked at, besides on each change.
const recheck = 5 * time.Second

// recheckPods is how often a node out of service is looked at for pods that
// have been told to end there.
const recheckPods = time.Second

// Snapshot is everything a decision about one Node depends on.
type Snapshot struct {
	Node        *corev1.Node
	Volumes     []v1alpha1.Volume
	Attachments []storagev1.VolumeAttachment // of all drivers and nodes
	Pods        []corev1.Pod                 // of the node; only while it is tainted by us
	Now         time.Time
	Grace       time.Duration
}

// Event is something to tell people about the Node, or a Volume.
type Event struct {
	Volume          *v1alpha1.Volume // nil: about the node
	Warning         bool
	Reason, Message string
}

// Plan is what one pass does.
type Plan struct {
	Withdraw []Withdrawal       // take the attachment away, keep it in the annotation
	Restore  []*v1alpha1.Volume // give the kept attachment back
	Forget   []*v1alpha1.Volume // drop the annotation
	Taint    bool
	Untaint  bool
	Delete   []corev1.Pod // by force, without waiting for their kubelet
	Events   []Event
	// Waiting says what tainting waits for.
	Waiting []string
	Again   time.Duration
}

// Withdrawal takes a Volume's attachment away.
type Withdrawal struct {
	Volume *v1alpha1.Volume
	Kept   Withdrawn
}

// Withdrawn is what is kept of an attachment, as JSON in AnnotationFenced.
type Withdrawn struct {
	v1alpha1.VolumeAttachment `json:",inline"`
	// Record is Kubernetes' VolumeAttachment, by UID: the attachment is
	// given back only while that very object stands.
	Record types.UID `json:"record,omitempty"`
}

// Decide is the whole policy for failed nodes. Pure.
func Decide(s *Snapshot) Plan {
	ready, since := readiness(s.Node)
	if ready {
		return returned(s)
	}
	mine := s.attachedHere()
	if len(mine) == 0 {
		return Plan{Forget: s.movedOn()}
	}
	if gone := s.Now.Sub(since); gone < s.Grace {
		return Plan{Again: s.Grace - gone}
	}
	return failed(s, mine, since)
}

// failed withdraws, waits and taints.
func failed(s *Snapshot, mine []*v1alpha1.Volume, since time.Time) Plan {
	plan := Plan{Forget: s.movedOn()}
	node := s.Node.Name
	for _, v := range mine {
		if a := v.Spec.Attachment; a != nil && a.Node == node {
			plan.Withdraw = append(plan.Withdraw, Withdrawal{v, s.withdrawn(v)})
			plan.Waiting = append(plan.Waiting, v.Name+": its attachment is being withdrawn")
			plan.Events = append(plan.Events, Event{Volume: v, Warning: true, Reason: "AttachmentWithdrawn", Message: fmt.Sprintf(
				"node %s has not been ready since %s: it may no longer use volume %s; the attachment is given back if the node returns before the volume is moved",
				node, since.UTC().Format(time.RFC3339), v.Name)})
		} else if why := notYetFenced(v, node); why != "" {
			plan.Waiting = append(plan.Waiting, v.Name+": "+why)
		}
	}
	if taintedByUs(s.Node) && len(plan.Waiting) == 0 {
		plan.Delete, plan.Again = s.terminating(), recheckPods
		return plan
	}
	if tainted(s.Node) {
		return plan
	}
	if len(plan.Waiting) > 0 {
		slices.Sort(plan.Waiting)
		plan.Again = recheck
		return plan
	}
	if others := s.foreignDrivers(); len(others) > 0 {
		plan.Events = append(plan.Events, Event{Warning: true, Reason: "OutOfServiceRefused", Message: fmt.Sprintf(
			"node %s is not ready; its Cask volumes are fenced, but it also has volumes of %s attached, which Cask cannot fence. "+
				"Make sure that the node is off, then `kubectl taint node %s %s=nodeshutdown:NoExecute` lets its pods move",
			node, strings.Join(others, ", "), node, corev1.TaintNodeOutOfService)})
		return plan
	}
	plan.Taint = true
	plan.tellTaint(node, mine)
	return plan
}

func (plan *Plan) tellTaint(node string, mine []*v1alpha1.Volume) {
	var names []string
	for _, v := range mine {
		names = append(names, v.Name)
		plan.Events = append(plan.Events, Event{Volume: v, Warning: true, Reason: "NodeOutOfService", Message: fmt.Sprintf(
			"node %s is taken out of service: volume %s is fenced from it and may be attached elsewhere", node, v.Name)})
	}
	slices.Sort(names)
	plan.Events = append(plan.Events, Event{Warning: true, Reason: "OutOfService", Message: fmt.Sprintf(
		"node %s is not ready and its volumes (%s) are fenced from it: tainted out-of-service so that its pods move; the taint is removed when the node is ready again",
		node, strings.Join(names, ", "))})
}

// notYetFenced says what is missing before the node can do nothing to the
// volume any more; empty when nothing is. The volume's attachment is no longer
// the node's.
func notYetFenced(v *v1alpha1.Volume, node string) string {
	t := v.Status.Target
	switch {
	case v.Status.Epoch == 0:
		return "" // no target has ever served anyone
	case t.Node == "":
		return "no target has said where it runs"
	case t.Node == node:
		return "no target on another node has taken over"
	case t.Attachment == "":
		return ""
	case v.Spec.Attachment != nil && t.Attachment == v.Spec.Attachment.ID:
		return "" // serves another node already
	}
	return "the target on " + t.Node + " has not cut the node off yet"
}

// returned cleans up after a node that is ready.
func returned(s *Snapshot) Plan {
	var plan Plan
	node := s.Node.Name
	if s.Node.Annotations[v1alpha1.AnnotationTainted] != "" {
		plan.Untaint = true
		plan.Events = append(plan.Events, Event{Reason: "BackInService", Message: fmt.Sprintf(
			"node %s is ready again: its out-of-service taint is removed", node)})
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		kept, ok := Kept(v)
		switch {
		case !ok || kept.Node != node:
		case v.Spec.Attachment == nil && v.DeletionTimestamp == nil && s.countsOn(v.Name, kept):
			plan.Restore = append(plan.Restore, v)
			plan.Events = append(plan.Events, Event{Volume: v, Reason: "AttachmentRestored", Message: fmt.Sprintf(
				"node %s is ready again and volume %s was not moved: the node may use it as before", node, v.Name)})
		default:
			plan.Forget = append(plan.Forget, v)
		}
	}
	return plan
}

// Kept is the attachment that was withdrawn from a failed node, if any.
func Kept(v *v1alpha1.Volume) (Withdrawn, bool) {
	var w Withdrawn
	text, ok := v.Annotations[v1alpha1.AnnotationFenced]
	if !ok || json.Unmarshal([]byte(text), &w) != nil || w.Node == "" || w.ID == "" {
		return Withdrawn{}, false
	}
	return w, true
}

func (s *Snapshot) withdrawn(v *v1alpha1.Volume) Withdrawn {
	w := Withdrawn{VolumeAttachment: *v.Spec.Attachment}
	if record := s.attachment(v.Name, s.Node.Name); record != nil {
		w.Record = record.UID
	}
	return w
}

// movedOn are the volumes that were withdrawn from the node and have another
// attachment now: theirs is never given back.
func (s *Snapshot) movedOn() []*v1alpha1.Volume {
	var moved []*v1alpha1.Volume
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if kept, ok := Kept(v); ok && kept.Node == s.Node.Name && v.Spec.Attachment != nil && v.Spec.Attachment.Node != kept.Node {
			moved = append(moved, v)
		}
	}
	return moved
}

// attachedHere are our volumes that the node may use, by our word or by
// Kubernetes'.
func (s *Snapshot) attachedHere() []*v1alpha1.Volume {
	var mine []*v1alpha1.Volume
	for i := range s.Volumes {
		v := &s.Volumes[i]
		own := v.Spec.Attachment != nil && v.Spec.Attachment.Node == s.Node.Name
		if own || s.attachment(v.Name, s.Node.Name) != nil {
			mine = append(mine, v)
		}
	}
	return mine
}

// attachment is Kubernetes' record that a volume is attached to a node.
func (s *Snapshot) attachment(volume, node string) *storagev1.VolumeAttachment {
	for i := range s.Attachments {
		a := &s.Attachments[i]
		pv := a.Spec.Source.PersistentVolumeName
		if a.Spec.Attacher == v1alpha1.DriverName && a.Spec.NodeName == node && pv != nil && *pv == volume {
			return a
		}
	}
	return nil
}

// countsOn reports whether Kubernetes goes on to use the volume on the node as
// it did when the attachment was withdrawn.
func (s *Snapshot) countsOn(volume string, kept Withdrawn) bool {
	a := s.attachment(volume, kept.Node)
	return a != nil && a.DeletionTimestamp == nil && kept.Record != "" && a.UID == kept.Record
}

// foreignDrivers are the other drivers with volumes on the node.
func (s *Snapshot) foreignDrivers() []string {
	var drivers []string
	for _, a := range s.Attachments {
		if a.Spec.NodeName == s.Node.Name && a.Spec.Attacher != v1alpha1.DriverName {
			drivers = append(drivers, a.Spec.Attacher)
		}
	}
	slices.Sort(drivers)
	return slices.Compact(drivers)
}

// readiness is whether the node is ready, and since when it is as it is.
func readiness(n *corev1.Node) (bool, time.Time) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, c.LastTransitionTime.Time
		}
	}
	return false, n.CreationTimestamp.Time
}

func tainted(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func taintedByUs(n *corev1.Node) bool {
	return tainted(n) && n.Annotations[v1alpha1.AnnotationTainted] != ""
}

// terminating are the node's pods that have been told to end.
func (s *Snapshot) terminating() []corev1.Pod {
	var pods []corev1.Pod
	for i := range s.Pods {
		if s.Pods[i].DeletionTimestamp != nil {
			pods = append(pods, s.Pods[i])
		}
	}
	return pods
}
