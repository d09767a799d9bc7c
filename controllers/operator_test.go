package controllers_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/authority/kube"
	"github.com/cask-storage/cask/controllers"
	"github.com/cask-storage/cask/controllers/internal/apitest"
	"github.com/cask-storage/cask/deploy/manifests"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/go-logr/logr/testr"
)

// world is a real API server with Cask installed and its operator running, as
// its service account; nodes, pods, IO containers and targets are acted.
type world struct {
	*testing.T
	cfg *rest.Config
	c   client.Client
}

func newWorld(t *testing.T) *world {
	cfg, c := apitest.Start(t)
	w := &world{t, cfg, c}
	w.install()
	log.SetLogger(testr.NewWithOptions(t, testr.Options{Verbosity: -1}))
	mgr, err := ctrl.NewManager(as(cfg, "cask-operator"), manager.Options{
		Scheme:                  controllers.Scheme(),
		Cache:                   cache.Options{DefaultNamespaces: map[string]cache.Config{v1alpha1.Namespace: {}}},
		Metrics:                 server.Options{BindAddress: "0"},
		LeaderElection:          true,
		LeaderElectionID:        "cask-operator",
		LeaderElectionNamespace: v1alpha1.Namespace,
		Controller:              config.Controller{SkipNameValidation: ptr.To(true)},
	})
	w.must(err)
	w.must(controllers.Setup(mgr, controllers.Options{Settings: controllers.DefaultSettings(), NodeFailureGrace: time.Second}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }() // ends with cancel; waited for below
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
		log.SetLogger(log.Log.WithSink(log.NullLogSink{}))
	})
	return w
}

// as is a configuration that has the rights of one of Cask's service accounts.
func as(cfg *rest.Config, account string) *rest.Config {
	c := rest.CopyConfig(cfg)
	c.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + v1alpha1.Namespace + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:authenticated"},
	}
	return c
}

// install applies the manifest that users apply.
func (w *world) install() {
	text, err := os.ReadFile("../deploy/cask-operator.yaml")
	w.must(err)
	objects, err := manifests.Parse(text)
	w.must(err)
	for _, o := range objects {
		if err := w.c.Create(w.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			w.Fatalf("apply %s: %v", o.GetName(), err)
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until ok says "", else fails with what it last said.
func (w *world) eventually(what string, ok func() string) {
	w.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		why := ok()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("%s: %s", what, why)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (w *world) node(name string, ready bool) {
	w.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := w.c.Create(w.Context(), n); err != nil && !apierrors.IsAlreadyExists(err) {
		w.Fatal(err)
	}
	w.must(w.c.Get(w.Context(), client.ObjectKey{Name: name}, n))
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastTransitionTime: metav1.Now()}}
	w.must(w.c.Status().Update(w.Context(), n))
	n.Labels = map[string]string{corev1.LabelTopologyZone: "z-" + name}
	n.Spec.Taints = nil // what admission adds to a new node
	if ready {
		w.must(w.c.Update(w.Context(), n))
	}
}

// pool makes a StoragePool that all of the nodes have reported on.
func (w *world) pool(name string, nodes ...string) {
	w.Helper()
	p := &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.StoragePoolSpec{Directory: "/var/lib/cask"}}
	w.must(w.c.Create(w.Context(), p))
	w.eventually("pool finalizer", func() string {
		w.must(w.c.Get(w.Context(), client.ObjectKeyFromObject(p), p))
		if len(p.Finalizers) == 0 {
			return "none"
		}
		for _, n := range nodes {
			p.Status.Nodes = append(p.Status.Nodes, v1alpha1.PoolNode{
				Name: n, Ready: true, Capacity: resource.MustParse("100Gi"), Free: resource.MustParse("100Gi"), Available: resource.MustParse("90Gi"),
			})
		}
		if err := w.c.Status().Update(w.Context(), p); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (w *world) get(name string) *v1alpha1.Volume {
	w.Helper()
	v := &v1alpha1.Volume{}
	w.must(w.c.Get(w.Context(), client.ObjectKey{Name: name}, v))
	return v
}

// condition waits for a condition of a Volume to have a reason.
func (w *world) condition(volume, typ, reason string) metav1.Condition {
	w.Helper()
	var c *metav1.Condition
	w.eventually("condition "+typ, func() string {
		c = meta.FindStatusCondition(w.get(volume).Status.Conditions, typ)
		if c == nil || c.Reason != reason {
			return sprint(c)
		}
		return ""
	})
	return *c
}

func (w *world) deployments(want int) []appsv1.Deployment {
	w.Helper()
	var list appsv1.DeploymentList
	w.eventually("deployments", func() string {
		w.must(w.c.List(w.Context(), &list, client.HasLabels{v1alpha1.LabelVolume}))
		if len(list.Items) != want {
			return sprint(len(list.Items))
		}
		return ""
	})
	return list.Items
}

func TestOperator(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"node1", "node2", "node3"} {
		w.node(n, true)
	}
	v := &v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"},
		Spec:       v1alpha1.VolumeSpec{Size: resource.MustParse("1Gi"), Replicas: 3, PreferredNode: "node2", Authentication: v1alpha1.AuthenticationNodes},
	}
	w.must(w.c.Create(t.Context(), v))
	w.condition("pvc-1", v1alpha1.ConditionPlaced, "NoPoolMatches")
	w.pool("default", "node1", "node2", "node3")
	t.Run("place", w.sub((*world).place))
	t.Run("serve", w.sub((*world).serve))
	t.Run("pool refuses to go", w.sub((*world).poolStays))
	t.Run("node failure", w.sub((*world).nodeFailure))
	t.Run("delete", w.sub((*world).remove))
}

func (w *world) sub(f func(*world)) func(*testing.T) {
	return func(t *testing.T) { f(&world{t, w.cfg, w.c}) }
}

// place: a volume that waited for a pool gets its pods as soon as there is one.
func (w *world) place() {
	w.condition("pvc-1", v1alpha1.ConditionPlaced, "Placed")
	w.deployments(4)
	v := w.get("pvc-1")
	if v.Status.Replicas[0].Node != "node2" || len(v.Status.Voters) != 3 || v.Status.State != v1alpha1.VolumePending {
		w.Errorf("status %+v", v.Status)
	}
	var target appsv1.Deployment
	w.must(w.c.Get(w.Context(), client.ObjectKey{Namespace: v1alpha1.Namespace, Name: "pvc-1-ctrl"}, &target))
	w.condition("pvc-1", v1alpha1.ConditionSecret, "SecretUsable")
	var secret corev1.Secret
	w.must(w.c.Get(w.Context(), client.ObjectKey{Namespace: v1alpha1.Namespace, Name: target.Spec.Template.Spec.Volumes[0].Secret.SecretName}, &secret))
	if !metav1.IsControlledBy(&secret, v) || len(secret.Data[v1alpha1.KeyDHCHAPHost]) == 0 || target.Spec.Template.Annotations["cask.storage/auth-secret"] != string(secret.UID) {
		w.Errorf("Secret %+v, target of %v", secret.ObjectMeta, target.Spec.Template.Annotations)
	}
	for _, r := range v.Status.Replicas {
		if r.Address == "" || r.Zone != "z-"+r.Node {
			w.Errorf("replica %+v", r)
		}
	}
	var budget policyv1.PodDisruptionBudget
	w.must(w.c.Get(w.Context(), client.ObjectKey{Namespace: v1alpha1.Namespace, Name: "pvc-1"}, &budget))
	var ioc appsv1.DaemonSet
	w.must(w.c.Get(w.Context(), client.ObjectKey{Namespace: v1alpha1.Namespace, Name: "ioc-default"}, &ioc))
	w.eventually("pool sums", func() string {
		var p v1alpha1.StoragePool
		w.must(w.c.Get(w.Context(), client.ObjectKey{Name: "default"}, &p))
		if p.Status.ReadyNodes != "3/3" || p.Status.Replicas != 3 || p.Status.Capacity.String() != "300Gi" || !meta.IsStatusConditionTrue(p.Status.Conditions, "Ready") {
			return sprint(p.Status)
		}
		return ""
	})
}

// target is a target's side, with the rights its pods have.
func (w *world) target(pod, node string) *kube.Volume {
	w.Helper()
	v, err := kube.New(kube.Options{Config: as(w.cfg, "cask-target"), Volume: "pvc-1", Pod: pod, Node: node})
	w.must(err)
	old, err := v.Load(w.Context())
	w.must(err)
	next := old
	next.Epoch++
	next.Holder = pod
	w.must(v.CompareAndSwap(w.Context(), old, next))
	s := target.Status{Epoch: uint64(next.Epoch), Serving: true}
	for _, id := range next.Voters {
		s.Replicas = append(s.Replicas, target.ReplicaStatus{ID: id, State: v1alpha1.ReplicaInSync})
	}
	w.must(v.Report(w.Context(), s))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }() // ends with cancel; waited for below
	w.Cleanup(func() {
		cancel()
		<-done
	})
	return v
}

// serve: a target reports, and its pod's loss is seen by the operator.
func (w *world) serve() {
	pod := w.pod("pvc-1-ctrl-x", "node1", v1alpha1.RoleTarget, "")
	w.target(pod.Name, "node1")
	if v := w.get("pvc-1"); v.Status.State != v1alpha1.VolumeHealthy || v.Status.InSync != "3/3" {
		w.Errorf("status %+v", v.Status)
	}
	w.eventually("budget", func() string {
		var b policyv1.PodDisruptionBudget
		w.must(w.c.Get(w.Context(), client.ObjectKey{Namespace: v1alpha1.Namespace, Name: "pvc-1"}, &b))
		if b.Spec.MaxUnavailable.IntValue() != 1 {
			return b.Spec.MaxUnavailable.String()
		}
		return ""
	})
	w.must(w.c.Delete(w.Context(), pod, client.GracePeriodSeconds(0)))
	w.condition("pvc-1", v1alpha1.ConditionServing, "TargetGone")
	if v := w.get("pvc-1"); v.Status.State != v1alpha1.VolumeSuspended {
		w.Errorf("state %s", v.Status.State)
	}
}

func (w *world) pod(name, node, role, replica string) *corev1.Pod {
	w.Helper()
	labels := map[string]string{v1alpha1.LabelVolume: "pvc-1", v1alpha1.LabelRole: role}
	if replica != "" {
		labels[v1alpha1.LabelReplica] = replica
	}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "c"}}, AutomountServiceAccountToken: ptr.To(false)},
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: "default"}}
	if err := w.c.Create(w.Context(), sa); err != nil && !apierrors.IsAlreadyExists(err) {
		w.Fatal(err)
	}
	w.must(w.c.Create(w.Context(), p))
	return p
}

func (w *world) poolStays() {
	p := &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	w.must(w.c.Delete(w.Context(), p))
	w.eventually("refusal", func() string {
		w.must(w.c.Get(w.Context(), client.ObjectKeyFromObject(p), p))
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionDeleting)
		if c == nil || c.Reason != "HoldsReplicas" || !strings.Contains(c.Message, "pvc-1") {
			return sprint(c)
		}
		return ""
	})
}

// nodeFailure: the attachment is withdrawn, the taint waits for the new target
// to have cut the node off, and goes when the node is back.
func (w *world) nodeFailure() {
	ctx := w.Context()
	v := w.get("pvc-1")
	v.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "node1", ID: "a1"}
	w.must(w.c.Update(ctx, v))
	w.must(w.c.Create(ctx, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: "va-1"},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: v1alpha1.DriverName, NodeName: "node1", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pvc-1")}},
	}))
	target := w.target("pvc-1-ctrl-y", "node2")
	w.must(target.Admit(ctx, kube.HostNQN(*v.Spec.Attachment)))
	w.node("node1", false)
	w.eventually("withdrawn", func() string {
		if a := w.get("pvc-1").Spec.Attachment; a != nil {
			return sprint(a)
		}
		return ""
	})
	time.Sleep(time.Second)
	if w.outOfService("node1") {
		w.Fatal("tainted while the target admits the node's hosts")
	}
	w.eventually("old host refused", func() string {
		if err := target.Admit(ctx, kube.HostNQNPrefix+"node1:a1"); !errors.Is(err, kube.ErrNotAdmitted) {
			return sprint(err)
		}
		return ""
	})
	app := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "app", Namespace: "default"},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	w.must(w.c.Create(ctx, app))
	w.must(w.c.Delete(ctx, app)) // as the taint would; there is no kubelet to end it
	w.must(target.Settle(ctx, func(context.Context) error { return nil }))
	w.eventually("taint", func() string {
		if !w.outOfService("node1") {
			return "not yet"
		}
		return ""
	})
	w.eventually("the pod that was to end is gone", func() string {
		if err := w.c.Get(ctx, client.ObjectKeyFromObject(app), app); !apierrors.IsNotFound(err) {
			return sprint(err)
		}
		return ""
	})
	w.node("node1", true)
	w.eventually("attachment back", func() string {
		if a := w.get("pvc-1").Spec.Attachment; a == nil || a.ID != "a1" || w.outOfService("node1") {
			return sprint(a)
		}
		return ""
	})
}

func (w *world) outOfService(node string) bool {
	w.Helper()
	var n corev1.Node
	w.must(w.c.Get(w.Context(), client.ObjectKey{Name: node}, &n))
	for _, t := range n.Spec.Taints {
		if t.Key == corev1.TaintNodeOutOfService {
			return true
		}
	}
	return n.Annotations[v1alpha1.AnnotationTainted] != ""
}

// remove: a Volume goes when nothing uses it and its extents are released, and
// the pool that waited for it goes with it.
func (w *world) remove() {
	ctx := w.Context()
	w.pod("pvc-1-rep-r0-x", "node2", v1alpha1.RoleReplica, "r0")
	w.must(w.c.Delete(ctx, w.get("pvc-1")))
	w.condition("pvc-1", v1alpha1.ConditionDeleting, "Attached")
	v := w.get("pvc-1")
	v.Spec.Attachment = nil
	w.must(w.c.Update(ctx, v))
	w.condition("pvc-1", v1alpha1.ConditionDeleting, "StoppingReplicas")
	w.deployments(0)
	if w.get("pvc-1").Releasing() {
		w.Fatal("extents released under a running replica")
	}
	w.must(w.c.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.Namespace, Name: "pvc-1-rep-r0-x"}}, client.GracePeriodSeconds(0)))
	w.condition("pvc-1", v1alpha1.ConditionDeleting, v1alpha1.ReasonReleasingExtents)
	w.must(w.c.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node3"}})) // its extents go with it
	w.eventually("released", func() string {
		v := w.get("pvc-1")
		for i := range v.Status.Replicas {
			v.Status.Replicas[i].Released = v.Status.Replicas[i].Node != "node3"
		}
		return errText(w.c.Status().Update(ctx, v))
	})
	w.eventually("gone", func() string {
		for _, o := range []client.Object{
			&v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}}, &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		} {
			if err := w.c.Get(ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
				return sprint(o)
			}
		}
		return ""
	})
}
