package kube

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
)

// TestVerified: what a comparison of the replicas came to is in the status and a
// condition, and stays when the next target, or one that failed, knows less.
func TestVerified(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	report := func(x *target.Verification) v1alpha1.VolumeStatus {
		t.Helper()
		must(t, v.Report(t.Context(), target.Status{Epoch: uint64(r.Epoch), Serving: true, Verified: x}))
		return f.status()
	}
	if st := report(nil); st.Verification != nil || meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionSame) != nil {
		t.Errorf("nothing was compared: %+v", st.Verification)
	}
	of := []quorum.ReplicaID{"r0", "r1"}
	report(&target.Verification{Request: "a", Ended: time.Now(), Seq: 7, Replicas: of, Held: 4096, Read: 512})
	differ := []target.Difference{{Replica: "r1", Extents: block.Set{{Off: 512, Len: 1024}}}}
	for _, x := range []*target.Verification{
		{Ended: time.Now(), Seq: 9, Replicas: of, Held: 8192, Differ: differ},
		nil, // of the next target
	} {
		st := report(x)
		got, c := st.Verification, meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionSame)
		if got.Request != "a" || got.Seq != 9 || got.HeldBytes != 8192 || len(got.Differ) != 1 || got.Differ[0].Bytes != 1024 || got.Differ[0].ID != "r1" {
			t.Errorf("status %+v", got)
		}
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != "ReplicasDiffer" || !strings.Contains(c.Message, "r1 in 1024 bytes") {
			t.Errorf("condition %+v", c)
		}
	}
	st := report(&target.Verification{Request: "b", Ended: time.Now(), Failed: "a replica was lost"})
	if c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionSame); c.Status != metav1.ConditionFalse || st.Verification.Failed == "" {
		t.Errorf("one that came to nothing: %+v, %+v", c, st.Verification)
	}
	if st := report(&target.Verification{Request: "c", Ended: time.Now(), Replicas: of}); !meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ConditionSame) {
		t.Errorf("after all is well: %+v", st.Conditions)
	}
}

// TestVerifyIsAskedOnce: an annotation asks until it has been answered.
func TestVerifyIsAskedOnce(t *testing.T) {
	obj := &v1alpha1.Volume{Status: v1alpha1.VolumeStatus{Replicas: []v1alpha1.VolumeReplica{{ID: "r0"}}}}
	obj.Spec.Consistency = "quorum"
	for _, x := range []struct{ annotation, answered, want string }{
		{"", "", ""}, {"a", "", "a"}, {"a", "a", ""}, {"b", "a", "b"}, {"", "a", ""},
	} {
		obj.Annotations = map[string]string{v1alpha1.AnnotationVerify: x.annotation}
		if obj.Status.Verification = nil; x.answered != "" {
			obj.Status.Verification = &v1alpha1.VolumeVerification{Request: x.answered}
		}
		if s, err := settingsOf(obj, "n0"); err != nil || s.Verify != x.want {
			t.Errorf("%+v: %q, %v", x, s.Verify, err)
		}
	}
}
