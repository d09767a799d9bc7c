package volume

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// grow adds nodes with room.
func (b *bench) grow(names ...string) {
	for _, name := range names {
		b.s.Nodes = append(b.s.Nodes, testNode(name, corev1.ConditionTrue))
		b.s.Pools[0].Status.Nodes = append(b.s.Pools[0].Status.Nodes, v1alpha1.PoolNode{Name: name, Ready: true, Available: resource.MustParse("5Gi")})
	}
}

// target does what the volume's target does: what stays and is in sync votes,
// what leaves does not.
func (b *bench) target() {
	st := &b.s.Volume.Status
	st.Voters = nil
	for i := range st.Replicas {
		if st.Replicas[i].Leaving == "" {
			st.Replicas[i].State = v1alpha1.ReplicaInSync
			st.Voters = append(st.Voters, st.Replicas[i].ID)
		}
	}
	slices.Sort(st.Voters)
}

func (b *bench) ids() (staying, leaving []string) {
	for _, r := range b.s.Volume.Status.Replicas {
		if r.Leaving == "" {
			staying = append(staying, r.ID)
		} else {
			leaving = append(leaving, r.ID)
		}
	}
	return staying, leaving
}

func (b *bench) wantIDs(staying, leaving string) {
	b.Helper()
	s, l := b.ids()
	if got := strings.Join(s, " ") + " | " + strings.Join(l, " "); got != staying+" | "+leaving {
		b.Fatalf("staying | leaving are %q, want %q | %q", got, staying, leaving)
	}
}

// TestMoreReplicas: a place, then the pod; the vote is the target's to give.
func TestMoreReplicas(t *testing.T) {
	b := newBench(t)
	b.s.Volume.Spec.Replicas = 2
	b.serve()
	b.s.Volume.Spec.Replicas = 3
	plan, _ := b.pass()
	b.wantIDs("r0 r1 r2", "")
	if len(plan.Create) > 1 || plan.Status == nil || len(plan.Status.Voters) != 2 {
		t.Fatalf("built on before it is recorded, or votes: %+v", plan)
	}
	b.settle()
	b.condition(v1alpha1.ConditionPlaced, ReasonPlaced)
	if _, ok := b.s.Deployments["pvc-1-rep-r2"]; !ok || b.s.Volume.Status.Replicas[2].Address == "" || b.s.Volume.Status.Replicas[2].Node != "node2" {
		t.Errorf("replicas %+v", b.s.Volume.Status.Replicas)
	}
	if v := b.s.Volume.Status.Voters; len(v) != 2 {
		t.Errorf("the operator gave a vote: %v", v)
	}
}

// TestNoPlaceForMore: the volume is kept up as it is, and says what is missing.
func TestNoPlaceForMore(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Volume.Spec.Replicas = 4
	b.settle()
	b.wantIDs("r0 r1 r2", "")
	b.condition(v1alpha1.ConditionPlaced, ReasonMoreReplicasThanNodes)
	if c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionPlaced); !strings.Contains(c.Message, "1 node more") || !strings.Contains(c.Message, "has a replica of it") {
		t.Errorf("message %q", c.Message)
	}
	if plan, _ := b.pass(); plan.Again != retryPlacement || len(b.s.Deployments) != 4 {
		t.Errorf("plan %+v", plan)
	}
	b.grow("node3")
	b.settle()
	b.wantIDs("r0 r1 r2 r3", "")
}

// TestFewerReplicas goes step by step: nothing of a replica is touched while it
// votes; then its pod goes, then its extent, then its entry.
func TestFewerReplicas(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Volume.Spec.Replicas = 2
	b.settle()
	b.wantIDs("r0 r1", "r2")
	if len(b.s.Deployments) != 4 {
		t.Fatal("a pod was taken down while its replica votes")
	}
	b.target()
	plan, _ := b.pass()
	if len(plan.Delete) != 1 || plan.Delete[0].GetName() != "pvc-1-rep-r2" || b.s.Volume.Status.Replicas[2].Releasing {
		t.Fatalf("plan %+v", plan)
	}
	b.settle()
	if b.s.Volume.Status.Replicas[2].Releasing || b.s.Services["pvc-1-rep-r2"].Name == "" {
		t.Fatal("released under a running pod")
	}
	b.s.Pods = slices.DeleteFunc(b.s.Pods, func(p corev1.Pod) bool { return p.Name == "rep-r2" })
	plan, _ = b.pass()
	if !b.s.Volume.Status.Replicas[2].Releasing || len(plan.Delete) != 1 {
		t.Fatalf("plan %+v", plan)
	}
	b.settle()
	b.wantIDs("r0 r1", "r2")
	b.s.Volume.Status.Replicas[2].Released = true
	b.settle()
	b.wantIDs("r0 r1", "")
	b.s.Volume.Spec.Replicas = 3
	b.settle()
	b.wantIDs("r0 r1 r3", "") // an ID is never used again
}

// TestRefusedRecord: that a replica has no vote is nothing to go by where no target
// goes by the record.
func TestRefusedRecord(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Volume.Spec.Replicas = 2
	b.settle()
	b.s.Volume.Status.Voters, b.s.Volume.Status.Refused = []string{"r0", "r1"}, "edited by hand"
	b.settle()
	if len(b.s.Deployments) != 4 || b.s.Volume.Status.Replicas[2].Releasing {
		t.Fatalf("taken down: %+v", b.s.Volume.Status.Replicas)
	}
	b.s.Volume.Status.Refused = ""
	if plan, _ := b.pass(); len(plan.Delete) != 1 {
		t.Errorf("plan %+v", plan)
	}
}

// TestWhoLeaves: what costs least.
func TestWhoLeaves(t *testing.T) {
	for name, x := range map[string]struct {
		edit func(*bench)
		want string
	}{
		"the newest":       {func(*bench) {}, "r2"},
		"not in sync":      {func(b *bench) { b.s.Volume.Status.Replicas[1].State = v1alpha1.ReplicaRebuilding }, "r1"},
		"without a vote":   {func(b *bench) { b.s.Volume.Status.Voters = []string{"r0", "r2"} }, "r1"},
		"on a lost node":   {func(b *bench) { b.s.Nodes[1] = testNode("node1", corev1.ConditionUnknown) }, "r1"},
		"not the target's": {func(b *bench) { b.s.Volume.Status.Target.Node = "node2" }, "r1"},
		"two in a zone": {func(b *bench) {
			for i, z := range []string{"a", "a", "b"} {
				b.s.Nodes[i].Labels = map[string]string{corev1.LabelTopologyZone: z}
			}
		}, "r1"},
		"lost before not in sync": {func(b *bench) {
			b.s.Nodes[0] = testNode("node0", corev1.ConditionUnknown)
			b.s.Volume.Status.Replicas[2].State = v1alpha1.ReplicaOffline
		}, "r0"},
	} {
		b := newBench(t)
		b.serve()
		x.edit(b)
		b.s.Volume.Spec.Replicas = 2
		b.pass()
		if _, leaving := b.ids(); len(leaving) != 1 || leaving[0] != x.want {
			t.Errorf("%s: %v leaves, want %s", name, leaving, x.want)
		}
	}
}

// TestChangeOfMind: a replica that still votes is kept; one that does not was
// possibly taken down, and another is made.
func TestChangeOfMind(t *testing.T) {
	b := newBench(t)
	b.grow("node3")
	b.serve()
	b.s.Volume.Spec.Replicas = 2
	b.settle()
	b.wantIDs("r0 r1", "r2")
	b.s.Volume.Spec.Replicas = 3
	b.settle()
	b.wantIDs("r0 r1 r2", "")
	b.s.Volume.Spec.Replicas = 2
	b.settle()
	b.target()
	b.s.Volume.Spec.Replicas = 3
	b.settle()
	b.wantIDs("r0 r1 r3", "r2")
}

// TestReplaced: lost for good, by three ways of saying so.
func TestReplaced(t *testing.T) {
	lost := func(b *bench, ago time.Duration) {
		n := testNode("node1", corev1.ConditionUnknown)
		n.Status.Conditions[0].LastTransitionTime = metav1.NewTime(b.s.Now.Add(-ago))
		b.s.Nodes[1] = n
	}
	for name, x := range map[string]struct {
		edit  func(*bench)
		want  string // reason; empty: it stays
		again bool
	}{
		"away, and to be waited for": {func(b *bench) { lost(b, 24*time.Hour) }, "", false},
		"away for less than declared": {func(b *bench) {
			b.s.Volume.Spec.ReplaceAfter = &metav1.Duration{Duration: time.Hour}
			lost(b, 59*time.Minute)
		}, "", true},
		"away for as long as declared": {func(b *bench) {
			b.s.Volume.Spec.ReplaceAfter = &metav1.Duration{Duration: time.Hour}
			lost(b, time.Hour)
		}, LeavingNodeLost, false},
		"removed from the cluster": {func(b *bench) { b.s.Nodes = slices.Delete(b.s.Nodes, 1, 2) }, LeavingNodeGone, false},
		"asked for": {func(b *bench) {
			b.s.Volume.Annotations = map[string]string{v1alpha1.AnnotationReplace: "r7, r1"}
		}, LeavingAsked, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.grow("node3")
			b.s.Now = time.Unix(1e9, 0)
			b.serve()
			x.edit(b)
			plan, _ := b.pass()
			if x.want == "" {
				b.wantIDs("r0 r1 r2", "")
				if (plan.Again != 0) != x.again {
					t.Errorf("looks again after %v", plan.Again)
				}
				return
			}
			b.wantIDs("r0 r2 r3", "r1")
			st := b.s.Volume.Status
			if st.Replicas[1].Leaving != x.want || st.Replicas[3].Node != "node3" {
				t.Errorf("replicas %+v", st.Replicas)
			}
			if _, ok := b.s.Deployments["pvc-1-rep-r1"]; !ok {
				t.Error("its pod went before its vote")
			}
			b.settle()
			b.wantIDs("r0 r2 r3", "r1")
			b.target()
			b.s.Pods = slices.DeleteFunc(b.s.Pods, func(p corev1.Pod) bool { return p.Name == "rep-r1" })
			b.settle()
			if x.want == LeavingNodeGone {
				b.wantIDs("r0 r2 r3", "") // its extent went with the node
			} else if _, ok := b.s.Deployments["pvc-1-rep-r1"]; ok || !b.s.Volume.Status.Replicas[1].Releasing {
				t.Errorf("deployment %v, replicas %+v", ok, b.s.Volume.Status.Replicas)
			}
		})
	}
}

// TestNotReplacedWithoutPlace: nothing leaves before there is something to take
// its place.
func TestNotReplacedWithoutPlace(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Nodes = slices.Delete(b.s.Nodes, 1, 2)
	b.settle()
	b.wantIDs("r0 r1 r2", "")
	b.condition(v1alpha1.ConditionPlaced, ReasonMoreReplicasThanNodes)
}

// TestZones: replicas and target are told the zone of their node, and follow it.
func TestZones(t *testing.T) {
	b := newBench(t)
	label := func(i int, zone string) { b.s.Nodes[i].Labels = map[string]string{corev1.LabelTopologyZone: zone} }
	b.s.Volume.Spec.Zones = "each"
	for i := range 2 {
		label(i, fmt.Sprintf("z%d", i))
	}
	b.pass()
	b.pass()
	if c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionPlaced); c == nil || !strings.Contains(c.Message, "node2 has no label topology.kubernetes.io/zone") {
		t.Fatalf("condition %+v", c)
	}
	label(2, "z2")
	b.serve()
	st := &b.s.Volume.Status
	if st.Target.Zone != "z0" {
		t.Errorf("target %+v", st.Target)
	}
	label(1, "z9")
	b.s.Nodes[2].Labels = nil
	b.settle()
	if st := b.s.Volume.Status; st.Replicas[1].Zone != "z9" || st.Replicas[2].Zone != "z2" {
		t.Errorf("replicas %+v", st.Replicas)
	}
}

func TestPlaceBeside(t *testing.T) {
	has := []Site{site("a", "x", 1), site("c", "y", 1)}
	sites := []Site{site("a", "x", 9), site("b", "x", 9), site("c", "y", 9), site("d", "z", 3), site("e", "z", 8)}
	for name, x := range map[string]struct {
		d    Demand
		want string
	}{
		"another zone":           {Demand{Replicas: 1, Beside: has}, "e"},
		"avoided":                {Demand{Replicas: 1, Beside: has, Avoid: map[string]bool{"e": true}}, "d"},
		"avoided, if need be":    {Demand{Replicas: 3, Beside: has, Avoid: map[string]bool{"e": true}}, "d b e"},
		"local: most in one":     {Demand{Replicas: 3, Zones: "local", Preferred: "a"}, "a b c"},
		"local: two of two":      {Demand{Replicas: 2, Zones: "local", Preferred: "c"}, "c a"},
		"local beside":           {Demand{Replicas: 1, Zones: "local", Beside: has}, "b"},
		"each: one in each zone": {Demand{Replicas: 3, Zones: "each"}, "a c e"},
	} {
		placed, err := Place(x.d, sites)
		var got []string
		for _, s := range placed {
			got = append(got, s.Node)
		}
		if err != nil || strings.Join(got, " ") != x.want {
			t.Errorf("%s: %v, %v; want %s", name, got, err, x.want)
		}
	}
}

// TestBudgetFollowsSpec: what may be evicted depends on what may be lost.
func TestBudgetFollowsSpec(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Volume.Status.Level = "all"
	b.s.Volume.Spec.MinVoters = ptr.To[int32](3)
	b.settle()
	if b.s.Budget.Spec.MaxUnavailable.IntValue() != 0 {
		t.Errorf("budget %v", b.s.Budget.Spec.MaxUnavailable)
	}
}
