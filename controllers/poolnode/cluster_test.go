package poolnode

import (
	"context"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/apitest"
	"github.com/cask-storage/cask/pkg/ioc"
)

// TestAgainstAPIServer runs the IO containers of two nodes: each owns its entry
// and releases its extent, and no other's.
func TestAgainstAPIServer(t *testing.T) {
	cfg, c := apitest.Start(t)
	if err := c.Create(t.Context(), pool()); err != nil {
		t.Fatal(err)
	}
	gates := map[string]*ioc.Gate{"n1": start(t, cfg, "n1"), "n2": start(t, cfg, "n2")}
	eventually(t, "both nodes are reported", func(ctx context.Context) bool {
		p := pool()
		if err := c.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			t.Fatal(err)
		}
		a, b := entry(p, "n1"), entry(p, "n2")
		return a.Ready && b.Ready && a.PoolID != b.PoolID && a.Capacity.Value() > 0 && a.Available.Value() > 0
	})
	v := makeVolume(t, c)
	for node, id := range map[string]string{"n1": "r0", "n2": "r1"} {
		if _, err := gates[node].Create(t.Context(), "gone-"+id, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	release(t, c, v)
	for node, id := range map[string]string{"n1": "r0", "n2": "r1"} {
		if _, err := gates[node].Open(t.Context(), "gone-"+id); !errors.Is(err, ioc.ErrNotFound) {
			t.Errorf("extent of %s: %v", id, err)
		}
	}
}

// start runs the reconcilers of one node for the length of the test.
func start(t *testing.T, cfg *rest.Config, node string) *ioc.Gate {
	t.Helper()
	o := Options("p")
	skip := true
	o.Controller.SkipNameValidation = &skip // two managers in one process
	mgr, err := ctrl.NewManager(cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	gate := new(ioc.Gate)
	agent, err := Setup(mgr, ioc.FileConfig{Dir: t.TempDir(), Pool: "p", Node: node}, gate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, agent.Close()); err != nil {
			t.Error(err)
		}
	})
	return gate
}

func makeVolume(t *testing.T, c client.Client) *v1alpha1.Volume {
	t.Helper()
	v := &v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: "gone", Finalizers: []string{v1alpha1.FinalizerData}},
		Spec:       v1alpha1.VolumeSpec{Size: resource.MustParse("1Mi")},
	}
	if err := c.Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	v.Status.Replicas = []v1alpha1.VolumeReplica{
		{ID: "r0", Node: "n1", Pool: "p"}, {ID: "r1", Node: "n2", Pool: "p"}, {ID: "r2", Node: "n3", Pool: "p"},
	}
	if err := c.Status().Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// release deletes the Volume as the operator does, and waits for the two nodes.
func release(t *testing.T, c client.Client, v *v1alpha1.Volume) {
	t.Helper()
	if err := c.Delete(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(v), v); err != nil {
		t.Fatal(err)
	}
	v.Status.Conditions = releaseCondition()
	if err := c.Status().Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two extents are released", func(ctx context.Context) bool {
		if err := c.Get(ctx, client.ObjectKeyFromObject(v), v); err != nil {
			t.Fatal(err)
		}
		r := v.Status.Replicas
		if len(r) != 3 || r[2].Released {
			t.Fatalf("replicas %+v", r)
		}
		return r[0].Released && r[1].Released
	})
	v.Finalizers = nil
	if err := c.Update(t.Context(), v); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, done func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !done(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("not in 20 s: %s", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
