package volume

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

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
		Named("volume").
		For(&v1alpha1.Volume{}).
		Owns(&appsv1.Deployment{}).
		Owns(&corev1.Service{}).
		Owns(&policyv1.PodDisruptionBudget{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(volumeOfPod)).
		Watches(&v1alpha1.StoragePool{}, handler.EnqueueRequestsFromMapFunc(r.waiting)).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.waiting)).
		Complete(r)
}

func volumeOfPod(_ context.Context, pod client.Object) []reconcile.Request {
	name := pod.GetLabels()[v1alpha1.LabelVolume]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
}

// waiting are the Volumes that a change of a pool or node may help or hurt:
// those without a place, those being deleted, and those with a part there.
func (r *Reconciler) waiting(ctx context.Context, changed client.Object) []reconcile.Request {
	var volumes v1alpha1.VolumeList
	if err := r.Client.List(ctx, &volumes); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list volumes")
		return nil
	}
	var requests []reconcile.Request
	for _, v := range volumes.Items {
		if len(v.Status.Replicas) == 0 || v.DeletionTimestamp != nil || touches(&v, changed.GetName()) {
			requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: v.Name}})
		}
	}
	return requests
}

func touches(v *v1alpha1.Volume, nodeOrPool string) bool {
	if v.Status.Target.Node == nodeOrPool {
		return true
	}
	for _, r := range v.Status.Replicas {
		if r.Node == nodeOrPool || r.Pool == nodeOrPool {
			return true
		}
	}
	return false
}

// Reconcile is one pass over one Volume.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	g := gatherer{cache: r.Client, api: r.API, namespace: r.Settings.Namespace}
	snapshot, err := g.gather(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	plan, err := Decide(snapshot, r.Settings)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := r.apply(ctx, snapshot.Volume, plan); err != nil {
		if apierrors.IsConflict(err) { // decided on an old state: again
			return ctrl.Result{RequeueAfter: retryConflict}, nil
		}
		return ctrl.Result{}, fmt.Errorf("volume %s: %w", req.Name, err)
	}
	return ctrl.Result{RequeueAfter: plan.Again}, nil
}

func (r *Reconciler) apply(ctx context.Context, v *v1alpha1.Volume, plan Plan) error {
	if plan.Status != nil {
		next := v.DeepCopy()
		next.Status = *plan.Status
		if err := r.Client.Status().Update(ctx, next); err != nil {
			return fmt.Errorf("record status: %w", client.IgnoreNotFound(err))
		}
		v.ResourceVersion = next.ResourceVersion
	}
	for _, e := range plan.Events { // after they have become true
		kind := corev1.EventTypeNormal
		if e.Warning {
			kind = corev1.EventTypeWarning
		}
		r.Events.Event(v, kind, e.Reason, e.Message)
	}
	if err := r.objects(ctx, plan); err != nil {
		return err
	}
	if plan.Finalize == nil {
		return nil
	}
	return r.finalizer(ctx, v, *plan.Finalize)
}

func (r *Reconciler) objects(ctx context.Context, plan Plan) error {
	for _, o := range plan.Create {
		if err := r.Client.Create(ctx, o); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create %T %s: %w", o, o.GetName(), err)
		}
	}
	for _, o := range plan.Update {
		if err := r.Client.Update(ctx, o); err != nil {
			return fmt.Errorf("update %T %s: %w", o, o.GetName(), err)
		}
	}
	for _, o := range plan.Delete {
		uid := o.GetUID()
		err := r.Client.Delete(ctx, o, client.Preconditions{UID: &uid}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete %T %s: %w", o, o.GetName(), err)
		}
	}
	return nil
}

// finalizer adds or removes ours, on exactly the state that was decided on.
func (r *Reconciler) finalizer(ctx context.Context, v *v1alpha1.Volume, present bool) error {
	next := v.DeepCopy()
	if present {
		controllerutil.AddFinalizer(next, v1alpha1.FinalizerData)
	} else {
		controllerutil.RemoveFinalizer(next, v1alpha1.FinalizerData)
	}
	patch := client.MergeFromWithOptions(v, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, next, patch); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("finalizer: %w", err)
	}
	return nil
}
