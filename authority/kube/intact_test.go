package kube

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/target"
)

// TestIntact: damage that stays is a condition, a repair its reason.
func TestIntact(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	for _, x := range []struct {
		trouble, repair, reason string
		status                  metav1.ConditionStatus
	}{
		{"", "", "NoDamage", metav1.ConditionTrue},
		{"", "it returned bad data at 0+8192, repaired from r2", "Repaired", metav1.ConditionTrue},
		{"8192 bytes at 0+8192 cannot be read", "", "Damaged", metav1.ConditionFalse},
	} {
		must(t, v.Report(t.Context(), target.Status{Epoch: uint64(r.Epoch), Serving: true,
			Replicas: []target.ReplicaStatus{{ID: "r1", State: "InSync", Trouble: x.trouble, Repair: x.repair}}}))
		c := meta.FindStatusCondition(f.status().Conditions, v1alpha1.ConditionIntact)
		if c == nil || c.Status != x.status || c.Reason != x.reason || !strings.Contains(c.Message, x.trouble+x.repair) {
			t.Errorf("%+v: %+v", x, c)
		}
	}
}
