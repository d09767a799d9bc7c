package poolnode

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/ioc"
)

// cluster is a fake API server of one pool. It does not merge lists as a real
// one does: TestAgainstAPIServer covers that.
type cluster struct {
	client.Client
	events *record.FakeRecorder
	down   error
}

func newCluster(t *testing.T, objects ...client.Object) *cluster {
	t.Helper()
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		t.Fatal(err)
	}
	c := &cluster{events: record.NewFakeRecorder(16)}
	c.Client = fake.NewClientBuilder().WithScheme(s).WithObjects(objects...).
		WithStatusSubresource(&v1alpha1.StoragePool{}, &v1alpha1.Volume{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Get: func(ctx context.Context, w client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
				if c.down != nil {
					return c.down
				}
				return w.Get(ctx, key, obj, opts...)
			},
		}).Build()
	return c
}

func (c *cluster) agent(t *testing.T, dir string) *Agent {
	a := &Agent{
		Base: ioc.FileConfig{Dir: dir, Pool: "p", Node: "n1"},
		Gate: new(ioc.Gate), Client: c, Fresh: c, Events: c.events,
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func (c *cluster) entry(t *testing.T) v1alpha1.PoolNode {
	t.Helper()
	p := new(v1alpha1.StoragePool)
	if err := c.Get(t.Context(), client.ObjectKey{Name: "p"}, p); err != nil {
		t.Fatal(err)
	}
	return entry(p, "n1")
}

func pool() *v1alpha1.StoragePool {
	return &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.StoragePoolSpec{Directory: "/d"}}
}

func reconciled(t *testing.T, a *Agent) {
	t.Helper()
	res, err := a.Reconcile(t.Context(), reconcile.Request{})
	if err != nil || res.RequeueAfter != lookAgain {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestFirstUseIsReported(t *testing.T) {
	c := newCluster(t, pool())
	a := c.agent(t, t.TempDir())
	if _, err := a.Gate.Status(t.Context()); !errors.Is(err, ioc.ErrUnavailable) {
		t.Fatalf("before: %v", err)
	}
	reconciled(t, a)
	st, err := a.Gate.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e := c.entry(t)
	if !e.Ready || e.PoolID != st.PoolID || e.Reason != ReasonReady || e.Capacity.Value() != int64(st.Capacity) || e.Available.Value() <= 0 {
		t.Fatalf("entry %+v", e)
	}
	if _, err := a.Gate.Create(t.Context(), "v-r0", 1<<20); err != nil {
		t.Fatal(err)
	}
	reconciled(t, a)
	if e := c.entry(t); e.Extents != 1 || e.Promised.Value() != 1<<20 || e.Reason != ReasonOrphans {
		t.Fatalf("entry %+v", e)
	}
}

// TestUnmountedDisk: what was recorded is not there; nothing is made in its
// place, the reason is told, and the disk is taken up when it is back.
func TestUnmountedDisk(t *testing.T) {
	c := newCluster(t, pool())
	dir := filepath.Join(t.TempDir(), "pool")
	mkdir(t, dir)
	a := c.agent(t, dir)
	reconciled(t, a)
	id := c.entry(t).PoolID
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	mkdir(t, dir)
	for range 2 { // noticed while open, then refused when opened again
		reconciled(t, a)
		e := c.entry(t)
		if e.Ready || e.PoolID != id || e.Reason != ReasonDirectory || !strings.Contains(e.Message, dir) {
			t.Fatalf("entry %+v", e)
		}
		if _, err := a.Gate.Create(t.Context(), "v-r0", 1<<20); !errors.Is(err, ioc.ErrForeign) {
			t.Fatalf("Create: %v", err)
		}
	}
	if e := c.entry(t); !strings.Contains(e.Message, AnnotationReplaceDisk+"="+id) {
		t.Errorf("no way out in %q", e.Message)
	}
	if ev := <-c.events.Events; !strings.Contains(ev, ReasonDirectory) || !strings.Contains(ev, "node n1") {
		t.Errorf("event %q", ev)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("made in place of the disk: %v", left)
	}
	os.Remove(dir)
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	reconciled(t, a)
	if e := c.entry(t); !e.Ready || e.PoolID != id {
		t.Fatalf("entry %+v", e)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestReplacedDisk(t *testing.T) {
	p := pool()
	p.Status.Nodes = []v1alpha1.PoolNode{{Name: "n1", PoolID: "old"}}
	c := newCluster(t, p)
	a := c.agent(t, t.TempDir())
	reconciled(t, a)
	if e := c.entry(t); e.Ready || e.PoolID != "old" {
		t.Fatalf("entry %+v", e)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
		t.Fatal(err)
	}
	p.Annotations = map[string]string{AnnotationReplaceDisk: "old"}
	if err := c.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	reconciled(t, a)
	if e := c.entry(t); !e.Ready || e.PoolID == "old" || e.PoolID == "" {
		t.Fatalf("entry %+v", e)
	}
}

// TestNoAPIServer: without it nobody knows which disk is right; a directory
// that is open stays open.
func TestNoAPIServer(t *testing.T) {
	c := newCluster(t, pool())
	a := c.agent(t, t.TempDir())
	c.down = errors.New("connection refused")
	if o := a.look(t.Context(), nil); !errors.Is(o.problem, ioc.ErrUnavailable) {
		t.Fatalf("opened: %v", o.problem)
	}
	c.down = nil
	reconciled(t, a)
	c.down = errors.New("connection refused")
	if _, err := a.Reconcile(t.Context(), reconcile.Request{}); err == nil {
		t.Fatal("no error to retry on")
	}
	if _, err := a.Gate.Status(t.Context()); err != nil {
		t.Fatalf("an open directory was refused: %v", err)
	}
}

func TestPoolDeleted(t *testing.T) {
	c := newCluster(t)
	reconciled(t, c.agent(t, t.TempDir()))
}

func TestFieldManagerIsShort(t *testing.T) {
	a, b := fieldManager("ioc-"+strings.Repeat("x", 250)), fieldManager("ioc-"+strings.Repeat("x", 251))
	if len(a) > maxManager || a == b || fieldManager("ioc-n1") != "ioc-n1" {
		t.Fatal(a, b)
	}
}

// failing is an engine whose deletions fail.
type failing struct {
	ioc.Engine
	err error
}

func (f failing) Delete(context.Context, string) error { return f.err }

// TestReleaseFails: an extent that could not be deleted is not called released.
func TestReleaseFails(t *testing.T) {
	v := releasing("gone")
	c := newCluster(t, v)
	for _, cause := range []error{ioc.ErrIO, ioc.ErrForeign, ioc.ErrUnavailable} {
		r := &Releaser{Base: base, Engine: failing{err: cause}, Client: c, Fresh: c, Events: c.events}
		_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(v)})
		if !errors.Is(err, cause) {
			t.Fatalf("%v: %v", cause, err)
		}
		if ev := <-c.events.Events; !strings.Contains(ev, "ReleaseFailed") {
			t.Errorf("event %q", ev)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(v), v); err != nil || v.Status.Replicas[0].Released {
			t.Fatalf("%v: called released", cause)
		}
	}
}

func releasing(name string) *v1alpha1.Volume {
	v := volumeOn("n1")
	v.Name, v.Finalizers = name, []string{v1alpha1.FinalizerData}
	now := metav1.Now()
	v.DeletionTimestamp = &now
	v.Status.Conditions = releaseCondition()
	return &v
}

func releaseCondition() []metav1.Condition {
	return []metav1.Condition{{
		Type: v1alpha1.ConditionDeleting, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonReleasingExtents, LastTransitionTime: metav1.Now(),
	}}
}
