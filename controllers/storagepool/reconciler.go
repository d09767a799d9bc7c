package storagepool

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

// retryConflict gives the cache time to catch up with who was faster.
const retryConflict = 200 * time.Millisecond

// Reconciler applies what Decide plans.
type Reconciler struct {
	Client   client.Client
	API      client.Reader // past the cache
	Events   record.EventRecorder
	Settings resources.Settings
}

// SetupWithManager registers the reconciler and what wakes it.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("storagepool").
		For(&v1alpha1.StoragePool{}).
		Owns(&appsv1.DaemonSet{}).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.all)).
		Watches(&v1alpha1.Volume{}, handler.EnqueueRequestsFromMapFunc(poolsOf)).
		Complete(r)
}

func (r *Reconciler) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var pools v1alpha1.StoragePoolList
	if err := r.Client.List(ctx, &pools); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list storage pools")
		return nil
	}
	var requests []reconcile.Request
	for _, p := range pools.Items {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: p.Name}})
	}
	return requests
}

func poolsOf(_ context.Context, o client.Object) []reconcile.Request {
	v, ok := o.(*v1alpha1.Volume)
	if !ok {
		return nil
	}
	var requests []reconcile.Request
	seen := map[string]bool{}
	for _, r := range v.Status.Replicas {
		if !seen[r.Pool] {
			seen[r.Pool] = true
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: r.Pool}})
		}
	}
	return requests
}

// Reconcile is one pass over one StoragePool.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	s, err := r.gather(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	plan, err := Decide(s, r.Settings)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := r.apply(ctx, s.Pool, plan); err != nil {
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: retryConflict}, nil
		}
		return ctrl.Result{}, fmt.Errorf("storage pool %s: %w", req.Name, err)
	}
	return ctrl.Result{}, nil
}

func (r *Reconciler) gather(ctx context.Context, name string) (*Snapshot, error) {
	s := &Snapshot{Pool: &v1alpha1.StoragePool{}}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, s.Pool); err != nil {
		return nil, err
	}
	s.Pool = s.Pool.DeepCopy()
	var nodes corev1.NodeList
	if err := r.Client.List(ctx, &nodes); err != nil {
		return nil, err
	}
	s.Nodes = nodes.Items
	volumes := client.Reader(r.Client)
	if s.Pool.DeletionTimestamp != nil {
		volumes = r.API // one that has just been placed here must not be missed
	}
	var all v1alpha1.VolumeList
	if err := volumes.List(ctx, &all); err != nil {
		return nil, err
	}
	s.Volumes = all.Items
	d := &appsv1.DaemonSet{}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: r.Settings.Namespace, Name: resources.IOCName(name)}, d)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if err == nil {
		s.DaemonSet = d
	}
	return s, nil
}

func (r *Reconciler) apply(ctx context.Context, p *v1alpha1.StoragePool, plan Plan) error {
	if plan.Status != nil {
		next := p.DeepCopy()
		next.Status = *plan.Status
		if err := r.Client.Status().Update(ctx, next); err != nil {
			return fmt.Errorf("record status: %w", client.IgnoreNotFound(err))
		}
		p.ResourceVersion = next.ResourceVersion
	}
	for _, e := range plan.Events {
		kind := corev1.EventTypeNormal
		if e.Warning {
			kind = corev1.EventTypeWarning
		}
		r.Events.Event(p, kind, e.Reason, e.Message)
	}
	if plan.Create != nil {
		if err := r.Client.Create(ctx, plan.Create); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create DaemonSet %s: %w", plan.Create.Name, err)
		}
	}
	if plan.Update != nil {
		if err := r.Client.Update(ctx, plan.Update); err != nil {
			return fmt.Errorf("update DaemonSet %s: %w", plan.Update.Name, err)
		}
	}
	if plan.Finalizers == nil {
		return nil
	}
	next := p.DeepCopy()
	next.Finalizers = plan.Finalizers
	patch := client.MergeFromWithOptions(p, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, next, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("finalizer: %w", err)
	}
	return nil
}
