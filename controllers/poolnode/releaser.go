package poolnode

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/ioc"
)

// Releaser deletes the extents of Volumes that are released, under the rule
// printed at v1alpha1.VolumeReplica.Released.
type Releaser struct {
	Base   ioc.FileConfig
	Engine ioc.Engine
	Client client.Client
	Fresh  client.Reader // past the cache: a Volume made anew must not lose its extents
	Events record.EventRecorder
}

// Reconcile deletes what is to be deleted of one Volume, then says so.
func (r *Releaser) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	v := new(v1alpha1.Volume)
	if err := r.Client.Get(ctx, req.NamespacedName, v); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if now, _ := toRelease(v, r.Base); len(now) == 0 {
		return reconcile.Result{}, nil
	}
	if err := r.Fresh.Get(ctx, req.NamespacedName, v); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	now, before := toRelease(v, r.Base)
	if len(now) == 0 {
		return reconcile.Result{}, nil
	}
	for _, id := range now {
		name := ioc.Replica{Volume: v.Name, ID: id}.ExtentName()
		if err := r.Engine.Delete(ctx, name); err != nil && !errors.Is(err, ioc.ErrNotFound) {
			r.Events.Eventf(v, corev1.EventTypeWarning, "ReleaseFailed", "node %s: %s", r.Base.Node, err)
			return reconcile.Result{}, fmt.Errorf("volume %s: release replica %s: %w", v.Name, id, err)
		}
		log.FromContext(ctx).Info("extent is deleted", "extent", name)
	}
	return reconcile.Result{}, r.report(ctx, v, append(before, now...))
}

// report owns one field of each entry; those released before are named again so
// that they stay.
func (r *Releaser) report(ctx context.Context, v *v1alpha1.Volume, ids []string) error {
	var replicas []map[string]any
	for _, id := range ids {
		replicas = append(replicas, map[string]any{"id": id, "released": true})
	}
	err := applyStatus(ctx, r.Client, v, applied{
		manager: fieldManager("ioc-" + r.Base.Pool + "-" + r.Base.Node),
		status:  map[string]any{"replicas": replicas},
	})
	if err != nil {
		return fmt.Errorf("volume %s: report released extents: %w", v.Name, err)
	}
	return nil
}
