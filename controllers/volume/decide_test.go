package volume

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

// bench applies plans to a snapshot, as the API server and the kubelet would.
type bench struct {
	*testing.T
	s        *Snapshot
	settings resources.Settings
	events   []Event
	ips      int
	secrets  int // made
}

func newBench(t *testing.T) *bench {
	v := &v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", UID: "uid"},
		Spec: v1alpha1.VolumeSpec{
			Size: resource.MustParse("1Gi"), Replicas: 3, Consistency: "quorum", Durability: "flush", Compression: "lz4",
		},
	}
	b := &bench{T: t, settings: resources.DefaultSettings(), s: &Snapshot{
		Volume: v, Deployments: map[string]appsv1.Deployment{}, Services: map[string]corev1.Service{},
	}}
	pool := v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "pool"}, Spec: v1alpha1.StoragePoolSpec{Directory: "/var/lib/cask"}}
	for i := range 3 {
		name := fmt.Sprintf("node%d", i)
		b.s.Nodes = append(b.s.Nodes, testNode(name, corev1.ConditionTrue))
		pool.Status.Nodes = append(pool.Status.Nodes, v1alpha1.PoolNode{Name: name, Ready: true, Available: resource.MustParse("10Gi")})
	}
	b.s.Pools = []v1alpha1.StoragePool{pool}
	return b
}

func testNode(name string, ready corev1.ConditionStatus) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

// pass decides once and carries the plan out; it reports whether anything was
// planned.
func (b *bench) pass() (Plan, bool) {
	b.Helper()
	b.s.Placing = b.s.placing()
	plan, err := Decide(b.s, b.settings)
	if err != nil {
		b.Fatal(err)
	}
	b.events = append(b.events, plan.Events...)
	if plan.Status != nil {
		b.s.Volume.Status = *plan.Status.DeepCopy()
	}
	for _, o := range plan.Create {
		switch o := o.(type) {
		case *corev1.Service:
			b.ips++
			o.Spec.ClusterIP = fmt.Sprintf("10.96.0.%d", b.ips)
			b.s.Services[o.Name] = *o
		case *appsv1.Deployment:
			b.s.Deployments[o.Name] = b.rolled(*o)
		case *policyv1.PodDisruptionBudget:
			b.s.Budget = o
		case *corev1.Secret:
			b.secrets++
			b.s.Keys = Keys{Secret: types.UID(fmt.Sprintf("secret%d", b.secrets)), Owner: o.OwnerReferences[0].UID, Good: true}
		}
	}
	for _, o := range plan.Update {
		switch o := o.(type) {
		case *appsv1.Deployment:
			b.s.Deployments[o.Name] = *o
		case *policyv1.PodDisruptionBudget:
			b.s.Budget = o
		}
	}
	for _, o := range plan.Delete {
		switch o.(type) {
		case *appsv1.Deployment:
			delete(b.s.Deployments, o.GetName())
		case *corev1.Service:
			delete(b.s.Services, o.GetName())
		}
	}
	if plan.Finalize != nil {
		b.s.Volume.Finalizers = nil
		if *plan.Finalize {
			b.s.Volume.Finalizers = []string{v1alpha1.FinalizerData}
		}
	}
	return plan, plan.Status != nil || plan.Finalize != nil || len(plan.Create)+len(plan.Update)+len(plan.Delete) > 0
}

func (b *bench) rolled(d appsv1.Deployment) appsv1.Deployment {
	d.Status = appsv1.DeploymentStatus{ObservedGeneration: d.Generation, UpdatedReplicas: 1, AvailableReplicas: 1}
	return d
}

// settle passes until nothing is left to do.
func (b *bench) settle() {
	b.Helper()
	for range 20 {
		if _, busy := b.pass(); !busy {
			return
		}
	}
	b.Fatal("does not settle")
}

// serve settles and then has a target report that all is well.
func (b *bench) serve() {
	b.Helper()
	b.settle()
	for _, r := range b.s.Volume.Status.Replicas {
		b.pod("rep-"+r.ID, r.Node, v1alpha1.RoleReplica, r.ID)
	}
	b.pod("ctrl", "node0", v1alpha1.RoleTarget, "")
	st := &b.s.Volume.Status
	st.Epoch, st.Initialized, st.State = 1, true, v1alpha1.VolumeHealthy
	st.Target.Pod, st.Target.Node = "ctrl", "node0"
	meta.SetStatusCondition(&st.Conditions, metav1.Condition{Type: v1alpha1.ConditionServing, Status: metav1.ConditionTrue, Reason: "Serving"})
	for i := range st.Replicas {
		st.Replicas[i].State = v1alpha1.ReplicaInSync
	}
	b.settle()
}

func (b *bench) pod(name, node, role, replica string) {
	labels := map[string]string{v1alpha1.LabelVolume: "pvc-1", v1alpha1.LabelRole: role}
	if replica != "" {
		labels[v1alpha1.LabelReplica] = replica
	}
	b.s.Pods = append(b.s.Pods, corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: v1alpha1.Namespace, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	})
}

func (b *bench) condition(typ, reason string) {
	b.Helper()
	c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, typ)
	if c == nil || c.Reason != reason {
		b.Errorf("condition %s is %+v, want reason %s", typ, c, reason)
	}
}

// TestOrder: what is decided is recorded before anything is built on it.
func TestOrder(t *testing.T) {
	b := newBench(t)
	plan, _ := b.pass()
	if plan.Finalize == nil || !*plan.Finalize || len(plan.Create) > 0 || len(b.s.Volume.Status.Replicas) > 0 {
		t.Fatalf("before the finalizer: %+v", plan)
	}
	plan, _ = b.pass()
	if plan.Status == nil || len(plan.Status.Replicas) != 3 || !slices.Equal(plan.Status.Voters, []string{"r0", "r1", "r2"}) || len(plan.Create) > 0 {
		t.Fatalf("placement: %+v", plan)
	}
	plan, _ = b.pass()
	if len(plan.Create) != 4 || len(b.s.Deployments) > 0 {
		t.Fatalf("services: %+v", plan.Create)
	}
	plan, _ = b.pass()
	if plan.Status == nil || plan.Status.Target.Address != "10.96.0.1:4420" || plan.Status.Replicas[2].Address != "10.96.0.4:4500" || len(plan.Create) > 0 {
		t.Fatalf("addresses: %+v", plan)
	}
	b.settle()
	if len(b.s.Deployments) != 4 || b.s.Budget == nil {
		t.Errorf("deployments %v, budget %v", len(b.s.Deployments), b.s.Budget)
	}
}

// TestPlacementIsForLife: nothing that happens to nodes and pools moves a
// replica.
func TestPlacementIsForLife(t *testing.T) {
	b := newBench(t)
	b.serve()
	before := b.s.Volume.Status.DeepCopy()
	b.s.Nodes = b.s.Nodes[1:]
	b.s.Pools = nil
	b.settle()
	for i, r := range b.s.Volume.Status.Replicas {
		if r.Node != before.Replicas[i].Node || r.Pool != before.Replicas[i].Pool {
			t.Errorf("replica %+v was %+v", r, before.Replicas[i])
		}
	}
	if len(b.s.Deployments) != 4 {
		t.Errorf("%d deployments are left", len(b.s.Deployments))
	}
	b.condition(v1alpha1.ConditionPodsReady, "PoolMissing")
}

// TestLostPlacement: a status that was emptied by hand is not made up anew, even
// when nothing in it says that there ever was one.
func TestLostPlacement(t *testing.T) {
	for name, edit := range map[string]func(*v1alpha1.VolumeStatus){
		"replicas": func(s *v1alpha1.VolumeStatus) { s.Replicas = nil },
		"all":      func(s *v1alpha1.VolumeStatus) { *s = v1alpha1.VolumeStatus{} },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.serve()
			edit(&b.s.Volume.Status)
			b.settle()
			b.condition(v1alpha1.ConditionPlaced, "PlacementLost")
			if st := b.s.Volume.Status; len(st.Replicas)+len(st.Voters) != 0 && name == "all" || len(st.Replicas) != 0 || len(b.s.Deployments) != 4 {
				t.Errorf("something was done about it: %+v", st)
			}
		})
	}
}

func TestUnplaced(t *testing.T) {
	for _, tc := range []struct {
		name   string
		edit   func(*Snapshot)
		reason string
		want   string
	}{
		{"no pool", func(s *Snapshot) { s.Pools = nil }, ReasonNoPoolMatches, "there is none"},
		{"pool of another name", func(s *Snapshot) { s.Volume.Spec.Pool = "fast" }, ReasonNoPoolMatches, "named fast, and there are pool (labels: none)"},
		{"labels", func(s *Snapshot) {
			s.Volume.Spec.PoolSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "nvme"}}
		}, ReasonNoPoolMatches, "with labels disk=nvme"},
		{"bad selector", func(s *Snapshot) {
			s.Volume.Spec.PoolSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
		}, ReasonNoPoolMatches, "poolSelector"},
		{"pool going", func(s *Snapshot) { now := metav1.Now(); s.Pools[0].DeletionTimestamp = &now }, ReasonNoPoolMatches, "pool (being deleted)"},
		{"node down", func(s *Snapshot) { s.Nodes[1] = testNode("node1", corev1.ConditionUnknown) }, ReasonMoreReplicasThanNodes, "2 eligible: node1 is not ready"},
		{"node cordoned", func(s *Snapshot) { s.Nodes[1].Spec.Unschedulable = true }, ReasonMoreReplicasThanNodes, "node1 is cordoned"},
		{"no report", func(s *Snapshot) { s.Pools[0].Status.Nodes = s.Pools[0].Status.Nodes[:2] }, ReasonMoreReplicasThanNodes, "node2 has no report from pool pool"},
		{"bad directory", func(s *Snapshot) {
			e := &s.Pools[0].Status.Nodes[0]
			e.Ready, e.Reason, e.Message = false, "WrongPool", "not mounted?"
		}, ReasonMoreReplicasThanNodes, "node0 is not ready in pool pool: WrongPool not mounted?"},
		{"not selected", func(s *Snapshot) {
			s.Pools[0].Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, ReasonMoreReplicasThanNodes, "0 eligible"},
		{"too big", func(s *Snapshot) { s.Volume.Spec.Size = resource.MustParse("10Gi") }, ReasonInsufficientCapacity, "node0 has 10Gi left"},
		{"promised to another that is not made yet", func(s *Snapshot) {
			s.Others = []v1alpha1.Volume{{Spec: v1alpha1.VolumeSpec{Size: resource.MustParse("9Gi")}, Status: v1alpha1.VolumeStatus{
				Replicas: []v1alpha1.VolumeReplica{{ID: "r0", Node: "node1", Pool: "pool"}},
			}}}
		}, ReasonInsufficientCapacity, "node1 has "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			b.pass()
			tc.edit(b.s)
			plan, _ := b.pass()
			b.condition(v1alpha1.ConditionPlaced, tc.reason)
			c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionPlaced)
			if c == nil || !strings.Contains(c.Message, tc.want) || !strings.Contains(c.Message, "pvc-1") {
				t.Errorf("condition %+v lacks %q", c, tc.want)
			}
			if len(plan.Create) > 0 || plan.Again == 0 || len(plan.Events) != 1 || !plan.Events[0].Warning {
				t.Errorf("plan %+v", plan)
			}
			if plan, busy := b.pass(); busy || len(plan.Events) > 0 {
				t.Errorf("says it again: %+v", plan)
			}
		})
	}
}

// TestClaimGone: a volume that never found a place goes with its claim.
func TestClaimGone(t *testing.T) {
	for name, big := range map[string]bool{"has no place": true, "has one": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.pass()
			b.s.Volume.Spec.Claim, b.s.ClaimGone = "shop/data", true
			if big {
				b.s.Volume.Spec.Size = resource.MustParse("10Gi")
			}
			plan, _ := b.pass()
			if deleted := len(plan.Delete) == 1 && plan.Delete[0] == b.s.Volume; deleted != big {
				t.Errorf("deleted %v, want %v", deleted, big)
			}
		})
	}
}

// TestOperatorRestart: a volume that is as it should be is left alone.
func TestOperatorRestart(t *testing.T) {
	b := newBench(t)
	b.serve()
	if plan, busy := b.pass(); busy || len(plan.Events) > 0 {
		t.Errorf("plan %+v", plan)
	}
}

// TestAttachDoesNotRestart: where the consumer is does not restart the target.
func TestAttachDoesNotRestart(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Volume.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "node2", ID: "a"}
	if plan, busy := b.pass(); busy {
		t.Errorf("plan %+v", plan)
	}
}

// TestUpgrade renews one replica at a time, each when all others are in sync,
// and the target last.
func TestUpgrade(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.settings.ImageTag = "next"
	var order []string
	for range 30 {
		plan, busy := b.pass()
		names := renewals(plan)
		if len(names) > 1 {
			t.Fatalf("%v at once", names)
		}
		if !busy {
			break
		}
		order = append(order, names...)
		for _, name := range names {
			b.restart(name)
		}
	}
	want := []string{"pvc-1-rep-r0", "pvc-1-rep-r1", "pvc-1-rep-r2", "pvc-1-ctrl"}
	if !slices.Equal(order, want) {
		t.Errorf("renewed %v, want %v", order, want)
	}
}

// restart plays a renewed Deployment through: its replica is away, comes back
// up, and is in sync again; nothing else may be renewed before that.
func (b *bench) restart(name string) {
	b.Helper()
	_, id, isReplica := strings.Cut(name, "-rep-")
	i := slices.IndexFunc(b.s.Volume.Status.Replicas, func(r v1alpha1.VolumeReplica) bool { return r.ID == id })
	still := func(when string) {
		b.Helper()
		for range 3 {
			if names := renewals(planOf(b.pass())); len(names) > 0 {
				b.Fatalf("%v renewed while %s %s", names, name, when)
			}
		}
	}
	d := b.s.Deployments[name]
	d.Status = appsv1.DeploymentStatus{}
	b.s.Deployments[name] = d
	still("is away, and the target has not noticed")
	if isReplica {
		b.s.Volume.Status.Replicas[i].State = v1alpha1.ReplicaCatchingUp
		b.s.Volume.Status.State = v1alpha1.VolumeDegraded
		b.s.Deployments[name] = b.rolled(d)
		still("catches up")
		b.s.Volume.Status.Replicas[i].State = v1alpha1.ReplicaInSync
		b.s.Volume.Status.State = v1alpha1.VolumeHealthy
	}
	b.s.Deployments[name] = b.rolled(d)
}

func planOf(p Plan, _ bool) Plan { return p }

// renewals names the Deployments that a plan renews.
func renewals(p Plan) []string {
	var names []string
	for _, o := range p.Update {
		if _, ok := o.(*appsv1.Deployment); ok {
			names = append(names, o.GetName())
		}
	}
	return names
}

// TestUpgradeOfBroken: what does not work anyway is renewed without waiting.
func TestUpgradeOfBroken(t *testing.T) {
	b := newBench(t)
	b.serve()
	b.s.Volume.Status.Replicas[1].State = v1alpha1.ReplicaOffline
	b.s.Volume.Status.State = v1alpha1.VolumeDegraded
	b.settings.ImageTag = "next"
	if names := renewals(planOf(b.pass())); !slices.Equal(names, []string{"pvc-1-rep-r1"}) {
		t.Errorf("renewed %v", names)
	}
}

func TestTargetGone(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*bench)
	}{
		{"pod deleted", func(b *bench) {
			b.s.Pods = slices.DeleteFunc(b.s.Pods, func(p corev1.Pod) bool { return p.Name == "ctrl" })
		}},
		{"pod going", func(b *bench) { now := metav1.Now(); b.s.Pods[len(b.s.Pods)-1].DeletionTimestamp = &now }},
		{"node down", func(b *bench) { b.s.Nodes[0] = testNode("node0", corev1.ConditionUnknown) }},
		{"node gone", func(b *bench) { b.s.Nodes = b.s.Nodes[1:] }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			b.serve()
			tc.edit(b)
			b.settle()
			b.condition(v1alpha1.ConditionServing, "TargetGone")
			if b.s.Volume.Status.State != v1alpha1.VolumeSuspended {
				t.Errorf("state %s", b.s.Volume.Status.State)
			}
		})
	}
}

func TestPodsReady(t *testing.T) {
	for _, tc := range []struct {
		name, reason, want string
		edit               func(*corev1.Pod)
	}{
		{"unschedulable", "Unschedulable", "0/3 nodes", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}
		}},
		{"crashing", "CrashLoopBackOff", "replica r0", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "replica", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
		}},
		{"out of memory", "OOMKilled", "want of memory", func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "replica", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled"}}}}
		}},
		{"starting", reasonStarting, "is starting", func(*corev1.Pod) {}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			b.serve()
			b.events = nil
			b.s.Pods[0].Status = corev1.PodStatus{}
			tc.edit(&b.s.Pods[0])
			b.settle()
			b.condition(v1alpha1.ConditionPodsReady, tc.reason)
			c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionPodsReady)
			if !strings.Contains(c.Message, tc.want) || !strings.Contains(c.Message, "rep-r0") {
				t.Errorf("message %q", c.Message)
			}
			if told := len(b.events) > 0; told == (tc.reason == reasonStarting) {
				t.Errorf("events %+v", b.events)
			}
		})
	}
}

// TestForeignService: a Service that is left of an older volume of the same
// name is not this one's address.
func TestForeignService(t *testing.T) {
	b := newBench(t)
	b.settle()
	svc := b.s.Services["pvc-1-ctrl"]
	svc.OwnerReferences[0].UID = "another"
	b.s.Services["pvc-1-ctrl"] = svc
	b.s.Volume.Status.Target.Address = ""
	clear(b.s.Deployments)
	b.settle()
	if len(b.s.Deployments) > 0 || b.s.Volume.Status.Target.Address != "" {
		t.Errorf("built on it: %+v", b.s.Volume.Status.Target)
	}
}
