package storagepool

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

func node(name string, ready corev1.ConditionStatus) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": "nvme", "name": name}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func entry(name string, ready bool) v1alpha1.PoolNode {
	return v1alpha1.PoolNode{Name: name, Ready: ready, Capacity: resource.MustParse("100Gi"), Available: resource.MustParse("80Gi")}
}

// snapshot is a pool of three nodes that all report.
func snapshot() *Snapshot {
	s := &Snapshot{Pool: &v1alpha1.StoragePool{
		ObjectMeta: metav1.ObjectMeta{Name: "pool", UID: "uid", Finalizers: []string{"other/one", v1alpha1.FinalizerReplicas}},
		Spec:       v1alpha1.StoragePoolSpec{Directory: "/var/lib/cask"},
	}}
	for _, n := range []string{"a", "b", "c"} {
		s.Nodes = append(s.Nodes, node(n, corev1.ConditionTrue))
		s.Pool.Status.Nodes = append(s.Pool.Status.Nodes, entry(n, true))
	}
	return s
}

// holds gives a Volume replicas on nodes of the pool.
func (s *Snapshot) holds(volume string, nodes ...string) {
	v := v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: volume}}
	for _, n := range nodes {
		v.Status.Replicas = append(v.Status.Replicas, v1alpha1.VolumeReplica{Node: n, Pool: "pool"})
	}
	s.Volumes = append(s.Volumes, v)
}

func decide(t *testing.T, s *Snapshot) Plan {
	t.Helper()
	plan, err := Decide(s, resources.DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func TestReady(t *testing.T) {
	for _, tc := range []struct {
		name          string
		edit          func(*Snapshot)
		reason, ready string
		message       string
	}{
		{"all", func(*Snapshot) {}, "AllNodesReady", "3/3", "every node"},
		{"none", func(s *Snapshot) { s.Nodes = nil }, "NoNodes", "0/0", "label some"},
		{"not selected", func(s *Snapshot) {
			s.Pool.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "tape"}}
		}, "NoNodes", "0/0", "nodeSelector of pool pool"},
		{"some selected", func(s *Snapshot) {
			s.Pool.Spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "name", Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}}}}
		}, "AllNodesReady", "2/2", ""},
		{"node down", func(s *Snapshot) { s.Nodes[1] = node("b", corev1.ConditionUnknown) }, "NodeNotReady", "2/3", "node b"},
		{"no report yet", func(s *Snapshot) { s.Pool.Status.Nodes = s.Pool.Status.Nodes[:2] }, "NoReport", "2/3", "on c"},
		{"bad directory", func(s *Snapshot) {
			s.Pool.Status.Nodes[2] = v1alpha1.PoolNode{Name: "c", Reason: "WrongPool", Message: "the directory has another pool's marker"}
		}, "WrongPool", "2/3", "node c: the directory has another"},
		{"worst first", func(s *Snapshot) {
			s.Pool.Status.Nodes = s.Pool.Status.Nodes[1:]
			s.Nodes[2] = node("c", corev1.ConditionFalse)
		}, "NodeNotReady", "1/3", "node c"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := snapshot()
			tc.edit(s)
			plan := decide(t, s)
			c := meta.FindStatusCondition(plan.Status.Conditions, v1alpha1.ConditionReady)
			if c == nil || c.Reason != tc.reason || !strings.Contains(c.Message, tc.message) || plan.Status.ReadyNodes != tc.ready {
				t.Errorf("ready %s, condition %+v", plan.Status.ReadyNodes, c)
			}
			s.Pool.Status = *plan.Status
			s.DaemonSet = plan.Create
			if again := decide(t, s); again.Status != nil || len(again.Events) > 0 || again.Create != nil || again.Update != nil || again.Finalizers != nil {
				t.Errorf("does it again: %+v", again)
			}
		})
	}
}

func TestSums(t *testing.T) {
	s := snapshot()
	s.holds("v1", "a", "b", "c")
	s.holds("v2", "a")
	s.Nodes[2] = node("c", corev1.ConditionFalse)
	st := decide(t, s).Status
	if st.Replicas != 4 || st.Capacity.String() != "200Gi" || st.Available.String() != "160Gi" {
		t.Errorf("status %+v", st)
	}
}

func TestRound(t *testing.T) {
	for in, want := range map[string]string{"59946097870": "55Gi", "528424168Ki": "503Gi", "3221225473": "3Gi", "1500Mi": "1500Mi", "1000": "0", "0": "0"} {
		q := resource.MustParse(in)
		if got := round(&q).String(); got != want {
			t.Errorf("round(%s) = %s, want %s", in, got, want)
		}
	}
}

// TestStaleEntries: entries of nodes that left are removed, but not while a
// replica is there.
func TestStaleEntries(t *testing.T) {
	s := snapshot()
	s.Pool.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": "a"}}
	s.Nodes = s.Nodes[:2]
	s.holds("v1", "b", "c")
	var left []string
	for _, e := range decide(t, s).Status.Nodes {
		left = append(left, e.Name)
	}
	if !slices.Equal(left, []string{"a", "b"}) { // c is not in the cluster
		t.Errorf("entries of %v are left", left)
	}
}

func TestDeletion(t *testing.T) {
	s := snapshot()
	now := metav1.Now()
	s.Pool.DeletionTimestamp = &now
	s.holds("v1", "a")
	s.holds("v2", "a", "b")
	plan := decide(t, s)
	c := meta.FindStatusCondition(plan.Status.Conditions, v1alpha1.ConditionDeleting)
	if c == nil || c.Reason != "HoldsReplicas" || !strings.Contains(c.Message, "3 replicas of volumes v1, v2") || plan.Finalizers != nil {
		t.Fatalf("condition %+v, finalizers %v", c, plan.Finalizers)
	}
	if !slices.ContainsFunc(plan.Events, func(e Event) bool { return e.Warning && e.Reason == "HoldsReplicas" }) {
		t.Errorf("events %+v", plan.Events)
	}
	s.Volumes = nil
	plan = decide(t, s)
	if !slices.Equal(plan.Finalizers, []string{"other/one"}) || plan.Create != nil {
		t.Errorf("finalizers %v, created %v", plan.Finalizers, plan.Create)
	}
}

func TestFinalizer(t *testing.T) {
	s := snapshot()
	s.Pool.Finalizers = nil
	if plan := decide(t, s); !slices.Equal(plan.Finalizers, []string{v1alpha1.FinalizerReplicas}) {
		t.Errorf("finalizers %v", plan.Finalizers)
	}
}

func TestBadSelector(t *testing.T) {
	s := snapshot()
	s.Pool.Spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
	if _, err := Decide(s, resources.DefaultSettings()); err == nil || !strings.Contains(err.Error(), "nodeSelector of StoragePool pool") {
		t.Errorf("got %v", err)
	}
}

// TestUpgrade renews the DaemonSet, and keeps it on nodes that hold replicas.
func TestUpgrade(t *testing.T) {
	s := snapshot()
	s.DaemonSet = decide(t, s).Create
	s.Pool.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"name": "a"}}
	s.holds("v1", "b")
	up := decide(t, s).Update
	if up == nil {
		t.Fatal("not renewed")
	}
	terms := up.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 2 || terms[0].MatchExpressions[0].Key != "name" || terms[1].MatchFields[0].Values[0] != "b" {
		t.Errorf("terms %+v", terms)
	}
}
