package volume

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

// Snapshot is everything a decision about one Volume depends on.
type Snapshot struct {
	Now    time.Time
	Volume *v1alpha1.Volume
	Pools  []v1alpha1.StoragePool
	Nodes  []corev1.Node
	// Others are all Volumes, and Placing says that they were read afresh:
	// only then may a place be chosen.
	Others  []v1alpha1.Volume
	Placing bool
	// ClaimGone says that the claim of a volume without a place is no more.
	ClaimGone bool

	// The volume's own objects, by name.
	Deployments map[string]appsv1.Deployment
	Services    map[string]corev1.Service
	Budget      *policyv1.PodDisruptionBudget
	Pods        []corev1.Pod

	// Secret has the size of each key of the volume's authentication Secret;
	// nil when there is none.
	Secret map[string]int

	// Keys are those of a volume whose nodes prove themselves.
	Keys Keys

	// PV is the PersistentVolume of the volume's name, and Uninstalling
	// that the Volume kind itself is being deleted; gathered for deleted
	// Volumes only.
	PV           *corev1.PersistentVolume
	Uninstalling bool
}

// gatherer reads from the cache, and past it where an old answer would do harm.
type gatherer struct {
	cache     client.Reader
	api       client.Reader
	namespace string
}

func (g gatherer) gather(ctx context.Context, name string) (*Snapshot, error) {
	s := &Snapshot{Now: time.Now(), Volume: &v1alpha1.Volume{}}
	if err := g.cache.Get(ctx, client.ObjectKey{Name: name}, s.Volume); err != nil {
		return nil, err
	}
	s.Volume = s.Volume.DeepCopy()
	for _, read := range []func(context.Context, *Snapshot) error{g.cluster, g.owned, g.secret, g.keys, g.placement, g.deletion} {
		if err := read(ctx, s); err != nil {
			return nil, fmt.Errorf("gather for volume %s: %w", name, err)
		}
	}
	return s, nil
}

func (g gatherer) cluster(ctx context.Context, s *Snapshot) error {
	var nodes corev1.NodeList
	if err := g.cache.List(ctx, &nodes); err != nil {
		return err
	}
	s.Nodes = nodes.Items
	var pools v1alpha1.StoragePoolList
	if err := g.cache.List(ctx, &pools); err != nil {
		return err
	}
	s.Pools = pools.Items
	return nil
}

func (g gatherer) owned(ctx context.Context, s *Snapshot) error {
	mine := []client.ListOption{client.InNamespace(g.namespace), client.MatchingLabels(resources.VolumeLabels(s.Volume.Name))}
	var deployments appsv1.DeploymentList
	var services corev1.ServiceList
	var budgets policyv1.PodDisruptionBudgetList
	var pods corev1.PodList
	for _, list := range []client.ObjectList{&deployments, &services, &budgets, &pods} {
		if err := g.cache.List(ctx, list, mine...); err != nil {
			return err
		}
	}
	s.Deployments = map[string]appsv1.Deployment{}
	for _, d := range deployments.Items {
		s.Deployments[d.Name] = d
	}
	s.Services = map[string]corev1.Service{}
	for _, svc := range services.Items {
		s.Services[svc.Name] = svc
	}
	for i := range budgets.Items {
		s.Budget = &budgets.Items[i]
	}
	s.Pods = pods.Items
	return nil
}

// placement reads all Volumes past the cache: the place another one has just
// been given counts.
func (g gatherer) placement(ctx context.Context, s *Snapshot) error {
	if !s.placing() {
		return nil
	}
	var all v1alpha1.VolumeList
	if err := g.api.List(ctx, &all); err != nil {
		return err
	}
	s.Others, s.Placing = all.Items, true
	if len(s.Volume.Status.Replicas) > 0 {
		return nil
	}
	var err error
	s.ClaimGone, err = g.claimGone(ctx, s.Volume)
	return err
}

// placing reports whether a place may have to be chosen.
func (s *Snapshot) placing() bool {
	if s.Volume.DeletionTimestamp != nil {
		return false
	}
	p := &pass{Snapshot: s}
	keep := 0
	for _, r := range s.Volume.Status.Replicas {
		if r.Leaving == "" && p.lost(r) == "" {
			keep++
		}
	}
	return keep < int(s.Volume.Spec.Replicas)
}

// claimGone reads the claim past the cache; one of the same name made later is
// another one: volumes are named after their claim's UID.
func (g gatherer) claimGone(ctx context.Context, v *v1alpha1.Volume) (bool, error) {
	namespace, name, ok := strings.Cut(v.Spec.Claim, "/")
	if !ok {
		return false, nil
	}
	var claim corev1.PersistentVolumeClaim
	err := g.api.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &claim)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	uid, named := strings.CutPrefix(v.Name, "pvc-")
	return err == nil && named && uid != string(claim.UID), err
}

func (g gatherer) deletion(ctx context.Context, s *Snapshot) error {
	if s.Volume.DeletionTimestamp == nil {
		return nil
	}
	pv := &corev1.PersistentVolume{}
	err := g.api.Get(ctx, client.ObjectKey{Name: s.Volume.Name}, pv)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	if err == nil && pv.Spec.CSI != nil && pv.Spec.CSI.Driver == v1alpha1.DriverName {
		s.PV = pv
	}
	crd := &metav1.PartialObjectMetadata{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	err = g.api.Get(ctx, client.ObjectKey{Name: "volumes." + v1alpha1.GroupVersion.Group}, crd)
	if client.IgnoreNotFound(err) != nil {
		return err
	}
	s.Uninstalling = err == nil && crd.DeletionTimestamp != nil
	return nil
}
