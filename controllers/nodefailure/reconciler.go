package nodefailure

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// retryConflict is how soon a decision on an old state is taken again.
const retryConflict = 200 * time.Millisecond

// Reconciler applies what Decide plans.
type Reconciler struct {
	Client client.Client
	API    client.Reader // past the cache: nothing here is decided on old news
	Events record.EventRecorder
	Grace  time.Duration

	mu   sync.Mutex
	said map[string]string // node to what was last said to be waited for
}

// SetupWithManager registers the reconciler and what wakes it.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("nodefailure").
		For(&corev1.Node{}).
		Watches(&v1alpha1.Volume{}, handler.EnqueueRequestsFromMapFunc(nodesOfVolume)).
		Watches(&storagev1.VolumeAttachment{}, handler.EnqueueRequestsFromMapFunc(nodeOfAttachment)).
		Complete(r)
}

func nodesOfVolume(_ context.Context, o client.Object) []reconcile.Request {
	v, ok := o.(*v1alpha1.Volume)
	if !ok {
		return nil
	}
	var requests []reconcile.Request
	if v.Spec.Attachment != nil {
		requests = append(requests, requestFor(v.Spec.Attachment.Node))
	}
	if kept, ok := Kept(v); ok {
		requests = append(requests, requestFor(kept.Node))
	}
	return requests
}

func nodeOfAttachment(_ context.Context, o client.Object) []reconcile.Request {
	a, ok := o.(*storagev1.VolumeAttachment)
	if !ok || a.Spec.Attacher != v1alpha1.DriverName {
		return nil
	}
	return []reconcile.Request{requestFor(a.Spec.NodeName)}
}

func requestFor(node string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: node}}
}

// Reconcile is one pass over one Node.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	s, err := r.gather(ctx, req.Name)
	if err != nil || s == nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	plan := Decide(s)
	if err := r.apply(ctx, s, plan); err != nil {
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: retryConflict}, nil
		}
		return ctrl.Result{}, fmt.Errorf("node %s: %w", req.Name, err)
	}
	return ctrl.Result{RequeueAfter: plan.Again}, nil
}

// gather reads afresh when the cache says that there may be something to do;
// nil when there is not.
func (r *Reconciler) gather(ctx context.Context, node string) (*Snapshot, error) {
	s := &Snapshot{Node: &corev1.Node{}, Now: time.Now(), Grace: r.Grace}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: node}, s.Node); err != nil {
		return nil, err
	}
	ready, _ := readiness(s.Node)
	if err := r.list(ctx, r.Client, s); err != nil {
		return nil, err
	}
	if ready && s.Node.Annotations[v1alpha1.AnnotationTainted] == "" && !slices.ContainsFunc(s.Volumes, keptFrom(node)) {
		return nil, nil
	}
	if !ready && len(s.attachedHere())+len(s.movedOn()) == 0 {
		return nil, nil
	}
	s.Node = &corev1.Node{}
	if err := r.API.Get(ctx, client.ObjectKey{Name: node}, s.Node); err != nil {
		return nil, err
	}
	if taintedByUs(s.Node) {
		pods, err := r.pods(ctx, node)
		if err != nil {
			return nil, err
		}
		s.Pods = pods
	}
	return s, r.list(ctx, r.API, s)
}

func (r *Reconciler) pods(ctx context.Context, node string) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := r.API.List(ctx, &pods, client.MatchingFields{"spec.nodeName": node})
	return pods.Items, err
}

func keptFrom(node string) func(v1alpha1.Volume) bool {
	return func(v v1alpha1.Volume) bool {
		kept, ok := Kept(&v)
		return ok && kept.Node == node
	}
}

func (r *Reconciler) list(ctx context.Context, from client.Reader, s *Snapshot) error {
	var volumes v1alpha1.VolumeList
	if err := from.List(ctx, &volumes); err != nil {
		return err
	}
	var attachments storagev1.VolumeAttachmentList
	if err := from.List(ctx, &attachments); err != nil {
		return err
	}
	s.Volumes, s.Attachments = volumes.Items, attachments.Items
	return nil
}

func (r *Reconciler) apply(ctx context.Context, s *Snapshot, plan Plan) error {
	for _, w := range plan.Withdraw {
		if err := r.change(ctx, w.Volume, w.apply); err != nil {
			return fmt.Errorf("withdraw the attachment of volume %s: %w", w.Volume.Name, err)
		}
	}
	if plan.Untaint || plan.Taint {
		if err := r.taint(ctx, s.Node, plan.Taint); err != nil {
			return err
		}
	}
	for i := range plan.Delete {
		if err := r.delete(ctx, &plan.Delete[i]); err != nil {
			return err
		}
	}
	for _, v := range plan.Restore {
		if err := r.change(ctx, v, restore); err != nil {
			return fmt.Errorf("restore the attachment of volume %s: %w", v.Name, err)
		}
	}
	for _, v := range plan.Forget {
		if err := r.change(ctx, v, forget); err != nil {
			return fmt.Errorf("forget the attachment of volume %s: %w", v.Name, err)
		}
	}
	r.tell(s, plan)
	return nil
}

// delete removes a pod at once, if it is still the one that was decided on.
func (r *Reconciler) delete(ctx context.Context, p *corev1.Pod) error {
	err := r.Client.Delete(ctx, p, client.GracePeriodSeconds(0), client.Preconditions{UID: &p.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// tell makes events; of waiting only when it is for something new.
func (r *Reconciler) tell(s *Snapshot, plan Plan) {
	for _, e := range plan.Events {
		kind := corev1.EventTypeNormal
		if e.Warning {
			kind = corev1.EventTypeWarning
		}
		if e.Volume != nil {
			r.Events.Event(e.Volume, kind, e.Reason, e.Message)
		} else {
			r.Events.Event(s.Node, kind, e.Reason, e.Message)
		}
	}
	waiting := strings.Join(plan.Waiting, "; ")
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.said == nil {
		r.said = map[string]string{}
	}
	if waiting == "" {
		delete(r.said, s.Node.Name)
		return
	}
	if r.said[s.Node.Name] != waiting {
		r.said[s.Node.Name] = waiting
		r.Events.Eventf(s.Node, corev1.EventTypeNormal, "WaitingForFence",
			"before node %s is taken out of service its volumes must be fenced: %s", s.Node.Name, waiting)
	}
}

// change patches a Volume, on exactly the state that was decided on.
func (r *Reconciler) change(ctx context.Context, v *v1alpha1.Volume, edit func(*v1alpha1.Volume) error) error {
	next := v.DeepCopy()
	if err := edit(next); err != nil {
		return err
	}
	return client.IgnoreNotFound(r.Client.Patch(ctx, next, client.MergeFromWithOptions(v, client.MergeFromWithOptimisticLock{})))
}

func (w Withdrawal) apply(v *v1alpha1.Volume) error {
	text, err := json.Marshal(w.Kept)
	if err != nil {
		return err
	}
	if v.Annotations == nil {
		v.Annotations = map[string]string{}
	}
	v.Annotations[v1alpha1.AnnotationFenced] = string(text)
	v.Spec.Attachment = nil
	return nil
}

func restore(v *v1alpha1.Volume) error {
	kept, ok := Kept(v)
	if !ok {
		return fmt.Errorf("annotation %s of volume %s cannot be read", v1alpha1.AnnotationFenced, v.Name)
	}
	v.Spec.Attachment = &kept.VolumeAttachment
	return forget(v)
}

func forget(v *v1alpha1.Volume) error {
	delete(v.Annotations, v1alpha1.AnnotationFenced)
	return nil
}

// taint puts the out-of-service taint on, or takes ours off.
func (r *Reconciler) taint(ctx context.Context, n *corev1.Node, on bool) error {
	next := n.DeepCopy()
	if on {
		now := metav1.Now()
		next.Spec.Taints = append(next.Spec.Taints, corev1.Taint{
			Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute, TimeAdded: &now,
		})
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[v1alpha1.AnnotationTainted] = "true"
	} else {
		next.Spec.Taints = slices.DeleteFunc(next.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
		delete(next.Annotations, v1alpha1.AnnotationTainted)
	}
	err := r.Client.Patch(ctx, next, client.MergeFromWithOptions(n, client.MergeFromWithOptimisticLock{}))
	if err != nil {
		return fmt.Errorf("out-of-service taint: %w", err)
	}
	return nil
}
