package storagepool

import (
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/conditions"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

// Snapshot is everything a decision about one StoragePool depends on.
type Snapshot struct {
	Pool      *v1alpha1.StoragePool
	Nodes     []corev1.Node
	Volumes   []v1alpha1.Volume
	DaemonSet *appsv1.DaemonSet
}

// Event is something to tell people about the StoragePool.
type Event struct {
	Warning         bool
	Reason, Message string
}

// Plan is what one pass does, in this order.
type Plan struct {
	Status     *v1alpha1.StoragePoolStatus
	Events     []Event
	Create     *appsv1.DaemonSet
	Update     *appsv1.DaemonSet
	Finalizers []string // what the pool's finalizers are to be; nil leaves them
}

// Decide is the whole of the operator's policy for a StoragePool. Pure.
func Decide(s *Snapshot, settings resources.Settings) (Plan, error) {
	var plan Plan
	selector, err := nodeSelector(s.Pool)
	if err != nil {
		return plan, err
	}
	held := holders(s)
	want := s.Pool.Status.DeepCopy()
	found := conditions.New()
	members := selected(s.Nodes, selector)
	want.Nodes = slices.DeleteFunc(want.Nodes, func(e v1alpha1.PoolNode) bool {
		return !inCluster(s.Nodes, e.Name) || !members[e.Name] && !slices.Contains(held.nodes, e.Name)
	})
	sumUp(s, want, members, found)
	want.Replicas = held.replicas
	if s.Pool.DeletionTimestamp != nil {
		plan.Finalizers = deletion(s.Pool, held, found)
	} else if !slices.Contains(s.Pool.Finalizers, v1alpha1.FinalizerReplicas) {
		plan.Finalizers = append(slices.Clone(s.Pool.Finalizers), v1alpha1.FinalizerReplicas)
	}
	for _, c := range found.Apply(&want.Conditions, s.Pool.Generation) {
		plan.Events = append(plan.Events, Event{c.Status == metav1.ConditionFalse, c.Reason, c.Message})
	}
	if !equality.Semantic.DeepEqual(want, &s.Pool.Status) {
		plan.Status = want
	}
	plan.daemonSet(s, settings.IOC(s.Pool, held.nodes))
	return plan, nil
}

func (plan *Plan) daemonSet(s *Snapshot, want *appsv1.DaemonSet) {
	switch {
	case s.DaemonSet == nil:
		if s.Pool.DeletionTimestamp == nil {
			plan.Create = want
		}
	case s.DaemonSet.Annotations[resources.AnnotationHash] != want.Annotations[resources.AnnotationHash]:
		have := s.DaemonSet.DeepCopy()
		have.Labels, have.Annotations, have.Spec = want.Labels, want.Annotations, want.Spec
		plan.Update = have
	}
}

// deletion lets the pool go when no Volume has a replica there any more, and
// returns its finalizers, nil to leave them.
func deletion(p *v1alpha1.StoragePool, held holding, found *conditions.Set) []string {
	if !slices.Contains(p.Finalizers, v1alpha1.FinalizerReplicas) {
		return nil
	}
	if held.replicas > 0 {
		found.Add(metav1.Condition{Type: v1alpha1.ConditionDeleting, Status: metav1.ConditionFalse, Reason: "HoldsReplicas", Message: fmt.Sprintf(
			"pool %s is kept: it holds %d replicas of volumes %s; delete their PersistentVolumeClaims first, the pool then goes by itself",
			p.Name, held.replicas, abbreviate(held.volumes))})
		return nil
	}
	return slices.DeleteFunc(slices.Clone(p.Finalizers), func(f string) bool { return f == v1alpha1.FinalizerReplicas })
}

// abbreviate names the first few.
func abbreviate(names []string) string {
	const few = 10
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}

// holding is what Volumes have in a pool.
type holding struct {
	nodes, volumes []string // sorted, each once
	replicas       int32
}

func holders(s *Snapshot) holding {
	var h holding
	for _, v := range s.Volumes {
		for _, r := range v.Status.Replicas {
			if r.Pool == s.Pool.Name {
				h.replicas++
				h.nodes = append(h.nodes, r.Node)
				h.volumes = append(h.volumes, v.Name)
			}
		}
	}
	slices.Sort(h.nodes)
	slices.Sort(h.volumes)
	h.nodes, h.volumes = slices.Compact(h.nodes), slices.Compact(h.volumes)
	return h
}

// sumUp fills in the totals and finds how ready the pool is.
func sumUp(s *Snapshot, want *v1alpha1.StoragePoolStatus, members map[string]bool, found *conditions.Set) {
	ready := 0
	capacity, available := resource.NewQuantity(0, resource.BinarySI), resource.NewQuantity(0, resource.BinarySI)
	for _, n := range s.Nodes {
		if !members[n.Name] {
			continue
		}
		i := slices.IndexFunc(want.Nodes, func(e v1alpha1.PoolNode) bool { return e.Name == n.Name })
		if !memberReady(&n, want.Nodes, i, found) {
			continue
		}
		ready++
		capacity.Add(want.Nodes[i].Capacity)
		available.Add(want.Nodes[i].Available)
	}
	want.ReadyNodes = fmt.Sprintf("%d/%d", ready, len(members))
	want.Capacity, want.Available = round(capacity), round(available)
	if len(members) == 0 {
		notReady(found, metav1.ConditionFalse, "NoNodes", fmt.Sprintf("no node of the cluster matches the nodeSelector of pool %s; label some", s.Pool.Name))
	}
	found.Add(metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "AllNodesReady", Message: "every node of the pool is ready"})
}

// round rounds down to what people read: whole GiB, or MiB of little.
func round(q *resource.Quantity) *resource.Quantity {
	const mebi, gibi = 1 << 20, 1 << 30
	unit := int64(mebi)
	if q.Value() >= 10*gibi {
		unit = gibi
	}
	return resource.NewQuantity(q.Value()/unit*unit, resource.BinarySI)
}

// memberReady finds what is wrong with a node of the pool; i is its entry's
// index, or negative.
func memberReady(n *corev1.Node, entries []v1alpha1.PoolNode, i int, found *conditions.Set) bool {
	switch {
	case !nodeReady(n):
		notReady(found, metav1.ConditionFalse, "NodeNotReady", fmt.Sprintf("node %s is not ready; its replicas catch up when it is back", n.Name))
	case i < 0:
		notReady(found, metav1.ConditionUnknown, "NoReport", fmt.Sprintf("the IO container on %s has not reported yet", n.Name))
	case !entries[i].Ready:
		e := entries[i]
		reason := e.Reason
		if reason == "" {
			reason = "NotReady"
		}
		notReady(found, metav1.ConditionFalse, reason, strings.TrimSpace(fmt.Sprintf("node %s: %s", n.Name, e.Message)))
	default:
		return true
	}
	return false
}

func notReady(found *conditions.Set, status metav1.ConditionStatus, reason, message string) {
	found.Add(metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message})
}

func nodeSelector(p *v1alpha1.StoragePool) (labels.Selector, error) {
	if p.Spec.NodeSelector == nil {
		return labels.Everything(), nil
	}
	sel, err := metav1.LabelSelectorAsSelector(p.Spec.NodeSelector)
	if err != nil {
		return nil, fmt.Errorf("nodeSelector of StoragePool %s: %w", p.Name, err)
	}
	return sel, nil
}

func selected(nodes []corev1.Node, selector labels.Selector) map[string]bool {
	members := map[string]bool{}
	for _, n := range nodes {
		if selector.Matches(labels.Set(n.Labels)) {
			members[n.Name] = true
		}
	}
	return members
}

func inCluster(nodes []corev1.Node, name string) bool {
	return slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == name })
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
