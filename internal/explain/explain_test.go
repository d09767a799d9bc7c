package explain

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cask-storage/cask/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }

func fakeClient(t *testing.T, objects ...client.Object) client.Client {
	t.Helper()
	s := runtime.NewScheme()
	if err := AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(s).WithObjects(objects...).
		WithIndex(&corev1.Event{}, "involvedObject.name", func(o client.Object) []string {
			return []string{o.(*corev1.Event).InvolvedObject.Name}
		}).Build()
}

// world is a volume in perfect health, for cases to spoil.
type world struct {
	volume *v1alpha1.Volume
	pvc    *corev1.PersistentVolumeClaim
	pv     *corev1.PersistentVolume
	class  *storagev1.StorageClass
	app    *corev1.Pod
	pool   *v1alpha1.StoragePool
	target *corev1.Pod
	reps   []*corev1.Pod
	nodes  []*corev1.Node
	events []*corev1.Event
}

func healthy() *world {
	w := &world{
		volume: &v1alpha1.Volume{
			ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", CreationTimestamp: ago(48 * time.Hour)},
			Spec: v1alpha1.VolumeSpec{
				Size: resource.MustParse("10Gi"), Replicas: 3, Consistency: "quorum", Durability: "flush",
				Attachment: &v1alpha1.VolumeAttachment{Node: "n1", ID: "a1"},
			},
			Status: v1alpha1.VolumeStatus{
				Epoch: 4, Voters: []string{"r0", "r1", "r2"}, State: v1alpha1.VolumeHealthy, InSync: "3/3",
				Target: v1alpha1.VolumeTarget{Pod: "pvc-1-ctrl-x", Node: "n1", Address: "10.0.0.1:4420", Attachment: "a1"},
				Conditions: []metav1.Condition{
					{Type: "Placed", Status: "True", Reason: "Placed", Message: "r0 on n1, r1 on n2, r2 on n3", LastTransitionTime: ago(48 * time.Hour)},
					{Type: "Serving", Status: "True", Reason: "Serving", LastTransitionTime: ago(time.Hour)},
				},
			},
		},
		pvc: &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "1", CreationTimestamp: ago(48 * time.Hour)},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-1", StorageClassName: pointer("cask")},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		},
		pv: &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"},
			Spec: corev1.PersistentVolumeSpec{
				ClaimRef:               &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "1"},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: v1alpha1.DriverName, VolumeHandle: "pvc-1"}},
			},
		},
		class: &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "cask"}, Provisioner: v1alpha1.DriverName,
			VolumeBindingMode: pointer(storagev1.VolumeBindingWaitForFirstConsumer)},
		app:    consumer("db-0", "n1"),
		pool:   &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		target: pod("pvc-1-ctrl-x", v1alpha1.RoleTarget, ""),
	}
	for i, node := range []string{"n1", "n2", "n3"} {
		id := "r" + string(rune('0'+i))
		w.volume.Status.Replicas = append(w.volume.Status.Replicas,
			v1alpha1.VolumeReplica{ID: id, Node: node, Pool: "default", State: v1alpha1.ReplicaInSync})
		w.reps = append(w.reps, pod("pvc-1-rep-"+id+"-x", v1alpha1.RoleReplica, id))
		w.pool.Status.Nodes = append(w.pool.Status.Nodes, v1alpha1.PoolNode{
			Name: node, Ready: true, Reason: "Ready", Capacity: resource.MustParse("100Gi"), Free: resource.MustParse("90Gi"),
			Promised: resource.MustParse("11Gi"), Available: resource.MustParse("79Gi"), Extents: 1,
		})
		w.nodes = append(w.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}})
	}
	return w
}

func pointer[T any](v T) *T { return &v }

func consumer(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: corev1.PodSpec{NodeName: node, Volumes: []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}},
	}
}

func pod(name, role, id string) *corev1.Pod {
	labels := map[string]string{v1alpha1.LabelVolume: "pvc-1", v1alpha1.LabelRole: role}
	if id != "" {
		labels[v1alpha1.LabelReplica] = id
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "cask-system", Name: name, Labels: labels, CreationTimestamp: ago(time.Hour)},
		Status: corev1.PodStatus{Phase: corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func event(name, kind, about string, e corev1.Event) *corev1.Event {
	e.Name, e.Namespace = name, corev1.NamespaceDefault
	if kind == "PersistentVolumeClaim" {
		e.Namespace = "shop"
	}
	e.InvolvedObject = corev1.ObjectReference{Kind: kind, Name: about}
	return &e
}

func (w *world) objects() []client.Object {
	var all []client.Object
	add := func(o client.Object, there bool) {
		if there {
			all = append(all, o)
		}
	}
	add(w.volume, w.volume != nil)
	add(w.pvc, w.pvc != nil)
	add(w.pv, w.pv != nil)
	add(w.class, w.class != nil)
	add(w.app, w.app != nil)
	add(w.pool, w.pool != nil)
	add(w.target, w.target != nil)
	for _, p := range w.reps {
		all = append(all, p)
	}
	for _, n := range w.nodes {
		all = append(all, n)
	}
	for _, e := range w.events {
		all = append(all, e)
	}
	return all
}

func (w *world) unprovisioned() {
	w.volume, w.pv, w.target, w.reps, w.app, w.pvc.Spec.VolumeName = nil, nil, nil, nil, nil, ""
	w.pvc.Status.Phase = corev1.ClaimPending
}

func (w *world) replica(i int, state string) {
	w.volume.Status.Replicas[i].State = state
	w.volume.Status.State, w.volume.Status.InSync = v1alpha1.VolumeDegraded, "2/3"
}

func (w *world) nodeDown(i int) {
	w.nodes[i].Status.Conditions[0] = corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: ago(5 * time.Minute)}
}

func (w *world) deleting(reason string) {
	w.volume.Finalizers, w.volume.DeletionTimestamp = []string{"x"}, pointer(ago(time.Minute))
	w.volume.Status.State = v1alpha1.VolumeDeleting
	w.volume.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDeleting, Status: metav1.ConditionTrue,
		Reason: reason, Message: "3 pods still run", LastTransitionTime: ago(time.Minute)}}
}

var cases = []struct {
	name  string
	spoil func(w *world)
	say   []string // in the findings; none: nothing is wrong
}{
	{"healthy", func(*world) {}, nil},
	{"node-down", func(w *world) {
		w.replica(1, v1alpha1.ReplicaOffline)
		w.nodeDown(1)
		w.events = append(w.events, event("e1", "Volume", "pvc-1", corev1.Event{
			Type: "Warning", Reason: "ReplicaOffline", Message: "r1 on n2 does not answer", LastTimestamp: ago(5 * time.Minute)}))
	}, []string{"Replica r1 on node n2 is Offline: the node is not ready since 5m."}},
	{"node-gone", func(w *world) {
		w.replica(2, v1alpha1.ReplicaOffline)
		w.nodes = w.nodes[:2]
	}, []string{"the node is not in the cluster"}},
	{"disk-not-mounted", func(w *world) {
		w.replica(1, v1alpha1.ReplicaOffline)
		e := &w.pool.Status.Nodes[1]
		e.Ready, e.Reason, e.Message = false, "WrongDirectory", "the disk is not mounted"
	}, []string{"StoragePool default cannot use its directory there: WrongDirectory: the disk is not mounted."}},
	{"no-report", func(w *world) {
		w.replica(1, v1alpha1.ReplicaOffline)
		w.pool.Status.Nodes = w.pool.Status.Nodes[:1]
	}, []string{"StoragePool default has no report from the node"}},
	{"replica-crashes", func(w *world) {
		w.replica(0, v1alpha1.ReplicaOffline)
		w.reps[0].Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 7,
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}}}
	}, []string{"pod pvc-1-rep-r0-x was restarted 7 times (last: OOMKilled, exit status 137 )."}},
	{"image-missing", func(w *world) {
		w.replica(0, v1alpha1.ReplicaUnknown)
		w.reps[0].Status.ContainerStatuses = []corev1.ContainerStatus{{
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull", Message: "not there"}}}}
	}, []string{"cannot start: ErrImageNeverPull: not there"}},
	{"replica-without-pod", func(w *world) {
		w.replica(0, v1alpha1.ReplicaOffline)
		w.reps = w.reps[1:]
	}, []string{"it has no pod"}},
	{"rebuilding", func(w *world) {
		w.replica(2, v1alpha1.ReplicaRebuilding)
		w.volume.Status.Replicas[2].Reason, w.volume.Status.Replicas[2].Message = "FullResync", "3.1 of 10 GiB"
	}, []string{"Replica r2 on node n3 is Rebuilding: FullResync: 3.1 of 10 GiB."}},
	{"extent-truncated", func(w *world) {
		w.replica(2, v1alpha1.ReplicaFailed)
		w.volume.Status.Replicas[2].Reason, w.volume.Status.Replicas[2].Message = "ExtentTruncated", "1 of 11 GiB are there"
	}, []string{"is Failed: ExtentTruncated: 1 of 11 GiB are there."}},
	{"suspended", func(w *world) {
		w.replica(1, v1alpha1.ReplicaOffline)
		w.replica(2, v1alpha1.ReplicaOffline)
		w.nodeDown(1)
		w.nodeDown(2)
		w.volume.Status.State, w.volume.Status.InSync = v1alpha1.VolumeSuspended, "1/3"
		w.volume.Status.Conditions[1] = metav1.Condition{Type: "Serving", Status: "False", Reason: "NoQuorum", Message: "1 of 3 replicas answer", LastTransitionTime: ago(4 * time.Minute)}
		w.target.Status.Conditions[0].Status = corev1.ConditionFalse
	}, []string{"I/O is suspended since 4m: NoQuorum: 1 of 3 replicas answer", "Replica r1", "Replica r2"}},
	{"no-target", func(w *world) { w.target = nil }, []string{"There is no target pod"}},
	{"target-unschedulable", func(w *world) {
		w.target.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"}}}
	}, []string{"The target pod pvc-1-ctrl-x does not serve: cannot be scheduled: 0/3 nodes are available."}},
	{"not-placed", func(w *world) {
		w.volume.Status = v1alpha1.VolumeStatus{State: v1alpha1.VolumePending, Conditions: []metav1.Condition{{
			Type: "Placed", Status: "False", Reason: "MoreReplicasThanNodes", Message: "3 replicas, 2 nodes", LastTransitionTime: ago(time.Minute)}}}
		w.target, w.reps, w.volume.Spec.Attachment = nil, nil, nil
	}, []string{"The replicas have no place: MoreReplicasThanNodes: 3 replicas, 2 nodes"}},
	{"second-node", func(w *world) {
		w.app = consumer("db-1", "n2")
		w.app.Status.Phase = corev1.PodPending
	}, []string{"Pod db-1 waits on node n2, but the volume is attached to node n1."}},
	{"fenced", func(w *world) {
		w.volume.Annotations = map[string]string{v1alpha1.AnnotationFenced: `{"node":"n1","id":"a1"}`}
		w.volume.Spec.Attachment = nil
	}, []string{"withdrawn from a failed node"}},
	{"attached-to-lost-node", func(w *world) { w.nodeDown(0) }, []string{"The volume is attached to node n1, which is not ready since 5m."}},
	{"unclean", func(w *world) {
		w.volume.Status.Conditions = append(w.volume.Status.Conditions, metav1.Condition{Type: "Complete", Status: "False", Reason: "BestCopy", Message: "reopened from r1"})
	}, []string{"may miss unflushed writes: reopened from r1"}},
	{"deleting", func(w *world) { w.deleting("StoppingPods") }, []string{"being deleted since 60s: StoppingPods: 3 pods still run"}},
	{"releasing", func(w *world) {
		w.deleting(v1alpha1.ReasonReleasingExtents)
		w.volume.Status.Replicas[0].Released = true
	}, []string{"waits for the extents of r1 on node n2, r2 on node n3."}},
	{"no-class", func(w *world) { w.unprovisioned(); w.class = nil }, []string{"StorageClass cask, which does not exist"}},
	{"other-driver", func(w *world) { w.unprovisioned(); w.class.Provisioner = "x" }, []string{"belongs to x, not to Cask"}},
	{"first-consumer", func(w *world) { w.unprovisioned() }, []string{"waits for its first consumer"}},
	{"refused", func(w *world) {
		w.unprovisioned()
		w.app = consumer("db-0", "n1")
		w.events = append(w.events, event("e1", "PersistentVolumeClaim", "data", corev1.Event{
			Type: "Warning", Reason: "ProvisioningFailed", Message: "unknown parameter\n  \"replicsa\"", LastTimestamp: ago(time.Minute)}))
	}, []string{`ProvisioningFailed: unknown parameter "replicsa"`}},
	{"refused-record", func(w *world) {
		w.volume.Status.Refused = "replica r1 has promised epoch 9, this target holds 4"
	}, []string{"No target goes by the Volume's record, so that nothing is lost: replica r1 has promised epoch 9"}},
	{"edited-record", func(w *world) {
		w.volume.Status.Refused = "status.voters changed by hand"
		w.volume.Status.Conditions = append(w.volume.Status.Conditions, metav1.Condition{Type: "Recorded", Status: "False", Reason: "EditedByHand",
			Message: "status.voters changed by hand to []; put it back: kubectl patch", LastTransitionTime: ago(time.Minute)})
	}, []string{"is not what its target wrote: status.voters changed by hand to []; put it back"}},
	{"no-secret", func(w *world) {
		w.volume.Status.Conditions = append(w.volume.Status.Conditions, metav1.Condition{Type: "SecretReady", Status: "False", Reason: "SecretMissing",
			Message: "Secret chap in namespace cask-system does not exist", LastTransitionTime: ago(time.Minute)})
	}, []string{"Hosts cannot prove themselves: Secret chap in namespace cask-system does not exist"}},
	{"below-min-voters", func(w *world) {
		w.volume.Spec.Consistency, w.volume.Spec.MinVoters, w.volume.Status.Level = "all", pointer(int32(2)), "all"
		w.replica(1, v1alpha1.ReplicaOffline)
		w.replica(2, v1alpha1.ReplicaOffline)
		w.nodeDown(1)
		w.nodeDown(2)
		w.volume.Status.State, w.volume.Status.Voting = v1alpha1.VolumeSuspended, "1/3"
		w.volume.Status.Conditions[1] = metav1.Condition{Type: "Serving", Status: "False", Reason: "NoQuorum", LastTransitionTime: ago(4 * time.Minute),
			Message: "writes wait: 1 of 3 voters in sync; minVoters is 2: lower spec.minVoters to 1 to go on without them"}
	}, []string{"lower spec.minVoters to 1", "Replica r1", "Replica r2"}},
	{"one-exposed", func(w *world) {
		w.volume.Spec.Consistency, w.volume.Status.Level, w.volume.Status.Exposed = "one", "one", 100
	}, []string{"Up to 100 acknowledged writes were on one replica only"}},
	{"replicas-leave", func(w *world) {
		w.volume.Spec.Replicas = 1
		w.volume.Status.Voters = []string{"r0", "r1"}
		for i := 1; i < 3; i++ {
			w.volume.Status.Replicas[i].Leaving, w.volume.Status.Replicas[i].State = "Surplus", v1alpha1.ReplicaUnknown
		}
		w.nodeDown(2)
		w.volume.Status.Conditions = append(w.volume.Status.Conditions, metav1.Condition{Type: "Settled", Status: "False", Reason: "Changing",
			Message: "replica r1 leaves the volume", LastTransitionTime: ago(time.Second)})
	}, []string{"Replica r1 on node n2 leaves the volume (Surplus): it votes until", "Replica r2 on node n3 leaves the volume (Surplus): its node is not ready",
		"not yet as its spec says, since 1s: Changing: replica r1 leaves"}},
	{"no-place-for-more", func(w *world) {
		w.volume.Spec.Replicas = 4
		w.volume.Status.Conditions[0] = metav1.Condition{Type: "Placed", Status: "False", Reason: "MoreReplicasThanNodes", Message: "needs 1 node more", LastTransitionTime: ago(time.Minute)}
	}, []string{"A further replica has no place: MoreReplicasThanNodes: needs 1 node more"}},
	{"volume-gone", func(w *world) { w.volume = nil }, []string{"the Volume behind it is gone"}},
}

// TestExplain reads each case through a client, checks what is said to be wrong
// and compares the whole page with its golden file.
func TestExplain(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := healthy()
			c.spoil(w)
			f, err := Gather(t.Context(), fakeClient(t, w.objects()...), Name{Namespace: "shop", Name: "data", System: "cask-system"})
			if err != nil {
				t.Fatal(err)
			}
			f.Now = now
			found := Findings(f)
			if len(found) != len(c.say) {
				t.Errorf("found %+v, want %q", found, c.say)
			}
			for i := range min(len(found), len(c.say)) {
				if !strings.Contains(found[i].Problem, c.say[i]) || found[i].Next == "" {
					t.Errorf("found %+v, want %q and a next step", found[i], c.say[i])
				}
			}
			var out bytes.Buffer
			if err := Write(&out, f); err != nil {
				t.Fatal(err)
			}
			golden(t, c.name, out.Bytes())
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update writes it):\n%s\nwant:\n%s", path, got, want)
	}
}

// TestNames: a volume is found by its own name, by its claim, and by a claim in
// another namespace; a claim made anew does not own the old one's volume.
func TestNames(t *testing.T) {
	w := healthy()
	c := fakeClient(t, w.objects()...)
	for _, n := range []Name{{Name: "pvc-1"}, {Namespace: "shop", Name: "data"}, {Namespace: "x", Name: "shop/data"}} {
		f, err := Gather(t.Context(), c, n)
		if err != nil || f.Volume == nil || f.Claim == nil || len(f.Consumers) != 1 {
			t.Errorf("%+v: %+v %v", n, f, err)
		}
	}
	if _, err := Gather(t.Context(), c, Name{Namespace: "x", Name: "data"}); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"data"`) {
		t.Errorf("got %v", err)
	}
	w.pvc.UID = types.UID("2")
	f, err := Gather(t.Context(), fakeClient(t, w.objects()...), Name{Name: "pvc-1"})
	if err != nil || f.Claim != nil {
		t.Errorf("%+v %v", f, err)
	}
}

func TestMargin(t *testing.T) {
	for _, c := range []struct {
		level  string
		inSync int
		want   string
	}{
		{"quorum", 3, "I/O goes on even if 1 more"},
		{"quorum", 2, "may wait if one more is lost"},
		{"quorum", 1, "I/O waits"},
		{"all", 3, "I/O goes on even if 1 more"},
		{"all", 2, "I/O waits"},
		{"one", 1, "may wait if one more is lost"},
	} {
		v := healthy().volume
		v.Spec.Consistency = c.level
		for i := c.inSync; i < 3; i++ {
			v.Status.Replicas[i].State = v1alpha1.ReplicaOffline
		}
		if got := Margin(v); !strings.Contains(got, c.want) {
			t.Errorf("%s %d: %q", c.level, c.inSync, got)
		}
	}
}
