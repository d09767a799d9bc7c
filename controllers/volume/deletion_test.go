package volume

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// deleted is a serving volume that was then deleted.
func deleted(t *testing.T) *bench {
	b := newBench(t)
	b.serve()
	now := metav1.Now()
	b.s.Volume.DeletionTimestamp = &now
	return b
}

func pv(phase corev1.PersistentVolumePhase, policy corev1.PersistentVolumeReclaimPolicy) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: policy,
			ClaimRef:                      &corev1.ObjectReference{Namespace: "shop", Name: "db"},
		},
		Status: corev1.PersistentVolumeStatus{Phase: phase},
	}
}

// TestDeletionRefused: while it is, the volume is kept up as ever.
func TestDeletionRefused(t *testing.T) {
	for _, tc := range []struct {
		name, reason, want string
		edit               func(*Snapshot)
	}{
		{"attached", "Attached", "attached to node node1", func(s *Snapshot) {
			s.Volume.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "node1", ID: "a"}
		}},
		{"claimed", "PersistentVolumeInUse", "shop/db", func(s *Snapshot) { s.PV = pv(corev1.VolumeBound, corev1.PersistentVolumeReclaimDelete) }},
		{"to be claimed", "PersistentVolumeInUse", "Available", func(s *Snapshot) { s.PV = pv(corev1.VolumeAvailable, corev1.PersistentVolumeReclaimDelete) }},
		{"retained", "PersistentVolumeRetained", "Retain", func(s *Snapshot) { s.PV = pv(corev1.VolumeReleased, corev1.PersistentVolumeReclaimRetain) }},
		{"uninstalling", "Uninstalling", "uninstalling deletes no data", func(s *Snapshot) { s.Uninstalling = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := deleted(t)
			tc.edit(b.s)
			delete(b.s.Deployments, "pvc-1-ctrl") // to be made again
			b.settle()
			b.condition(v1alpha1.ConditionDeleting, tc.reason)
			c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionDeleting)
			if c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, tc.want) {
				t.Errorf("condition %+v", c)
			}
			if len(b.s.Deployments) != 4 || len(b.s.Volume.Finalizers) != 1 || b.s.Volume.Releasing() {
				t.Error("the volume is not kept up")
			}
		})
	}
}

// TestDeletion goes through the stages; each waits for the one before.
func TestDeletion(t *testing.T) {
	b := deleted(t)
	b.s.PV = pv(corev1.VolumeReleased, corev1.PersistentVolumeReclaimDelete)
	b.settle()
	b.condition(v1alpha1.ConditionDeleting, "StoppingTarget")
	if b.s.Volume.Status.State != v1alpha1.VolumeDeleting || len(b.s.Deployments) != 3 {
		t.Errorf("state %s, %d deployments", b.s.Volume.Status.State, len(b.s.Deployments))
	}
	b.gone("ctrl")
	b.settle()
	b.condition(v1alpha1.ConditionDeleting, "StoppingReplicas")
	b.gone("rep-r0", "rep-r1")
	b.s.Nodes[2] = testNode("node2", corev1.ConditionUnknown)
	b.settle()
	b.condition(v1alpha1.ConditionDeleting, "StoppingReplicas")
	c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionDeleting)
	if !strings.Contains(c.Message, "rep-r2 (node node2 is not ready: bring it back or remove it from the cluster)") || b.s.Volume.Releasing() {
		t.Errorf("condition %+v", c)
	}
	b.gone("rep-r2")
	b.settle()
	b.condition(v1alpha1.ConditionDeleting, v1alpha1.ReasonReleasingExtents)
	if !b.s.Volume.Releasing() {
		t.Error("the IO containers are not told")
	}
	for i := range b.s.Volume.Status.Replicas[:2] {
		b.s.Volume.Status.Replicas[i].Released = true
		b.settle()
		if len(b.s.Volume.Finalizers) == 0 {
			t.Fatal("let go before every extent was released")
		}
	}
	b.s.Nodes = b.s.Nodes[:2] // the last node is taken out of the cluster
	b.settle()
	if len(b.s.Volume.Finalizers) != 0 {
		t.Errorf("finalizers %v", b.s.Volume.Finalizers)
	}
}

// TestReleasingIsFinal: once extents are being deleted, nothing starts pods on
// them again.
func TestReleasingIsFinal(t *testing.T) {
	b := deleted(t)
	b.s.Pods = nil
	b.settle()
	if !b.s.Volume.Releasing() {
		t.Fatal("not releasing")
	}
	b.s.Volume.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "node1", ID: "late"}
	b.settle()
	if !b.s.Volume.Releasing() || len(b.s.Deployments) > 0 {
		t.Errorf("%d deployments", len(b.s.Deployments))
	}
}

// TestDeleteUnplaced: a volume that never had a place goes at once.
func TestDeleteUnplaced(t *testing.T) {
	b := newBench(t)
	b.s.Pools = nil
	b.settle()
	now := metav1.Now()
	b.s.Volume.DeletionTimestamp = &now
	b.settle()
	if len(b.s.Volume.Finalizers) != 0 {
		t.Errorf("finalizers %v", b.s.Volume.Finalizers)
	}
}

func (b *bench) gone(pods ...string) {
	b.s.Pods = slices.DeleteFunc(b.s.Pods, func(p corev1.Pod) bool { return slices.Contains(pods, p.Name) })
}
