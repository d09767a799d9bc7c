package poolnode

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/scheme"
	"github.com/cask-storage/cask/pkg/ioc"
)

// Options are a manager's for one pool on one node: it sees that StoragePool
// and every Volume, and serves nothing itself.
func Options(pool string) ctrl.Options {
	return ctrl.Options{
		Scheme:                 scheme.New(),
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		Cache: cache.Options{ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.StoragePool{}: {Field: fields.OneTermEqualSelector("metadata.name", pool)},
		}},
	}
}

// Setup adds the two reconcilers to a manager; the Agent returned is closed by
// the caller after the manager has ended and the gate is served no more.
func Setup(mgr manager.Manager, base ioc.FileConfig, gate *ioc.Gate) (*Agent, error) {
	events := mgr.GetEventRecorderFor("cask-ioc")
	agent := &Agent{Base: base, Gate: gate, Client: mgr.GetClient(), Fresh: mgr.GetAPIReader(), Events: events}
	changed := predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{})
	err := ctrl.NewControllerManagedBy(mgr).Named("poolnode").
		For(&v1alpha1.StoragePool{}, builder.WithPredicates(changed)).Complete(agent)
	if err != nil {
		return nil, fmt.Errorf("set up the pool's reporter: %w", err)
	}
	releaser := &Releaser{Base: base, Engine: gate, Client: mgr.GetClient(), Fresh: mgr.GetAPIReader(), Events: events}
	err = ctrl.NewControllerManagedBy(mgr).Named("release").For(&v1alpha1.Volume{}).Complete(releaser)
	if err != nil {
		return nil, fmt.Errorf("set up the releaser of extents: %w", err)
	}
	return agent, nil
}
