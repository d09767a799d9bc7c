package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/explain"
)

func volume(name, state string) *v1alpha1.Volume {
	return &v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-3 * time.Hour))},
		Spec:       v1alpha1.VolumeSpec{Size: resource.MustParse("1Gi"), Consistency: "quorum"},
		Status:     v1alpha1.VolumeStatus{State: state, InSync: "3/3"},
	}
}

var objects = []client.Object{
	volume("pvc-1", v1alpha1.VolumeHealthy), volume("pvc-2", v1alpha1.VolumeDegraded),
	&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "data"}}},
	&v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Status: v1alpha1.StoragePoolStatus{Nodes: []v1alpha1.PoolNode{
		{Name: "n1", Ready: true, Reason: "Ready", Capacity: resource.MustParse("100Gi"), Free: resource.MustParse("1536Mi"), Extents: 2},
		{Name: "n2", Reason: "WrongDirectory", Message: "not mounted"},
	}}},
	&v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "empty"}},
}

func execute(t *testing.T, with []client.Object, args ...string) string {
	t.Helper()
	s := runtime.NewScheme()
	if err := explain.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	c := fake.NewClientBuilder().WithScheme(s).WithObjects(with...).
		WithIndex(&corev1.Event{}, "involvedObject.name", func(client.Object) []string { return nil }).Build()
	root := newRoot("cask", &cluster{reader: c})
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	if err := root.ExecuteContext(t.Context()); err != nil {
		out.WriteString("error: " + err.Error())
	}
	return out.String()
}

// differing serves well, and one of its replicas is not like the others.
var differing = func() *v1alpha1.Volume {
	v := volume("pvc-3", v1alpha1.VolumeHealthy)
	v.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionSame, Status: metav1.ConditionFalse, Reason: "Different", Message: "r1 differs"}}
	return v
}()

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args string
		with []client.Object
		want string
	}{
		{"volumes", objects, `
NAME    CLAIM       STATE      IN SYNC   VOTING   LEVEL   SIZE   TARGET   ATTACHED   AGE
pvc-1   shop/data   Healthy    3/3       -        -       1Gi    -        -          3h
pvc-2   -           Degraded   3/3       -        -       1Gi    -        -          3h
`},
		{"volumes", nil, "There are no volumes."},
		{"pools", objects, `
POOL      NODE   READY   CAPACITY   FREE      PROMISED   AVAILABLE   EXTENTS   REASON
default   n1     true    100 GiB    1.5 GiB   0 B        0 B         2         Ready
default   n2     false   0 B        0 B       0 B        0 B         0         WrongDirectory
default on node n2: not mounted
empty: no node has reported; see `},
		{"pools", nil, "There are no StoragePools"},
		{"explain pvc-1", objects, "Volume pvc-1: Healthy\n"},
		{"explain nobody", objects, `error: no Volume "nobody" and no PersistentVolumeClaim "nobody"`},
		{"explain", objects, "error: accepts 1 arg(s)"},
		{"why-degraded", objects, "Volume pvc-2: Degraded\n"},
		{"why-degraded", objects[:1], "Every volume is healthy."},
		{"why-degraded", []client.Object{differing}, "Volume pvc-3: Healthy\n"},
		{"why-degraded pvc-1", objects, "Volume pvc-1: Healthy\n"},
		{"version", nil, "cask "},
		{"nonsense", nil, `error: unknown command "nonsense"`},
	} {
		got := execute(t, c.with, strings.Fields(c.args)...)
		if !strings.HasPrefix(got, strings.TrimPrefix(c.want, "\n")) {
			t.Errorf("%s printed\n%s\nwant\n%s", c.args, got, c.want)
		}
	}
}

func TestName(t *testing.T) {
	if got := newRoot("/usr/bin/kubectl-cask", new(cluster)).CommandPath(); got != "kubectl cask" {
		t.Errorf("called as a plugin: %q", got)
	}
	if got := newRoot("bin/cask", new(cluster)).CommandPath(); got != "cask" {
		t.Errorf("called by its name: %q", got)
	}
}
