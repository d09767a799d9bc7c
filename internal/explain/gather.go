package explain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// ErrNotFound is returned when neither a Volume nor a claim has the name.
var ErrNotFound = errors.New("not found")

// Name is what a person typed.
type Name struct {
	Namespace string // for claims
	Name      string // of a Volume or a claim; "namespace/claim" too
	System    string // the namespace of Cask's own pods
}

// AddToScheme registers every kind this package reads.
func AddToScheme(s *runtime.Scheme) error {
	return errors.Join(corev1.AddToScheme(s), storagev1.AddToScheme(s), v1alpha1.AddToScheme(s))
}

// Gather reads what there is to know about a volume.
func Gather(ctx context.Context, c client.Reader, n Name) (*Facts, error) {
	g := gatherer{Reader: c, facts: &Facts{Now: time.Now()}, name: n}
	if err := g.find(ctx); err != nil {
		return nil, err
	}
	return g.facts, errors.Join(g.consumers(ctx), g.pods(ctx), g.surroundings(ctx), g.events(ctx))
}

type gatherer struct {
	client.Reader
	facts *Facts
	name  Name
}

// get reads an object; found is false when it is not there.
func (g *gatherer) get(ctx context.Context, key client.ObjectKey, obj client.Object) (found bool, err error) {
	err = g.Get(ctx, key, obj)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", key, err)
	}
	return true, nil
}

// find starts from a Volume, else from a claim.
func (g *gatherer) find(ctx context.Context) error {
	namespace, claim, qualified := strings.Cut(g.name.Name, "/")
	if !qualified {
		namespace, claim = g.name.Namespace, g.name.Name
		v := new(v1alpha1.Volume)
		found, err := g.get(ctx, client.ObjectKey{Name: claim}, v)
		if err != nil {
			return err
		}
		if found {
			g.facts.Volume = v
			return g.fromVolume(ctx)
		}
	}
	pvc := new(corev1.PersistentVolumeClaim)
	found, err := g.get(ctx, client.ObjectKey{Namespace: namespace, Name: claim}, pvc)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("no Volume %q and no PersistentVolumeClaim %q in namespace %q: %w; see `kubectl cask volumes`",
			g.name.Name, claim, namespace, ErrNotFound)
	}
	g.facts.Claim = pvc
	return g.fromClaim(ctx)
}

func (g *gatherer) fromVolume(ctx context.Context) error {
	pv := new(corev1.PersistentVolume)
	found, err := g.get(ctx, client.ObjectKey{Name: g.facts.Volume.Name}, pv)
	if err != nil || !found {
		return err
	}
	g.facts.PV = pv
	if pv.Spec.ClaimRef == nil {
		return nil
	}
	pvc := new(corev1.PersistentVolumeClaim)
	found, err = g.get(ctx, client.ObjectKey{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}, pvc)
	if found && pvc.UID == pv.Spec.ClaimRef.UID {
		g.facts.Claim = pvc
	}
	return err
}

// fromClaim finds the volume also before it is bound: its name is made from
// the claim's UID.
func (g *gatherer) fromClaim(ctx context.Context) error {
	pvc := g.facts.Claim
	name := pvc.Spec.VolumeName
	if name == "" {
		name = "pvc-" + string(pvc.UID)
	}
	pv, v := new(corev1.PersistentVolume), new(v1alpha1.Volume)
	found, err := g.get(ctx, client.ObjectKey{Name: name}, pv)
	if err != nil {
		return err
	}
	if found {
		g.facts.PV = pv
		if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == v1alpha1.DriverName {
			name = pv.Spec.CSI.VolumeHandle
		}
	}
	if found, err = g.get(ctx, client.ObjectKey{Name: name}, v); found {
		g.facts.Volume = v
	}
	return err
}

func (g *gatherer) consumers(ctx context.Context) error {
	pvc := g.facts.Claim
	if pvc == nil {
		return nil
	}
	if name := pvc.Spec.StorageClassName; name != nil && *name != "" {
		class := new(storagev1.StorageClass)
		found, err := g.get(ctx, client.ObjectKey{Name: *name}, class)
		if err != nil {
			return err
		}
		if found {
			g.facts.Class = class
		}
	}
	var pods corev1.PodList
	if err := g.List(ctx, &pods, client.InNamespace(pvc.Namespace)); err != nil {
		return fmt.Errorf("list the pods of namespace %s: %w", pvc.Namespace, err)
	}
	for _, p := range pods.Items {
		if slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == pvc.Name
		}) {
			g.facts.Consumers = append(g.facts.Consumers, p)
		}
	}
	return nil
}

func (g *gatherer) pods(ctx context.Context) error {
	if g.facts.Volume == nil {
		return nil
	}
	var pods corev1.PodList
	err := g.List(ctx, &pods, client.InNamespace(g.name.System), client.MatchingLabels{v1alpha1.LabelVolume: g.facts.Volume.Name})
	if err != nil {
		return fmt.Errorf("list the pods of volume %s: %w", g.facts.Volume.Name, err)
	}
	g.facts.Pods = pods.Items
	return nil
}

func (g *gatherer) surroundings(ctx context.Context) error {
	var nodes corev1.NodeList
	if err := g.List(ctx, &nodes); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var pools v1alpha1.StoragePoolList
	if err := g.List(ctx, &pools); err != nil {
		return fmt.Errorf("list StoragePools: %w", err)
	}
	g.facts.Nodes, g.facts.Pools = nodes.Items, pools.Items
	return nil
}

func (g *gatherer) events(ctx context.Context) error {
	about := map[string]string{} // name -> namespace of its events
	if g.facts.Volume != nil {
		about[g.facts.Volume.Name] = clusterEvents
	} else if g.facts.PV != nil {
		about[g.facts.PV.Name] = clusterEvents
	}
	if g.facts.Claim != nil {
		about[g.facts.Claim.Name] = g.facts.Claim.Namespace
	}
	for name, namespace := range about {
		var list corev1.EventList
		if err := g.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{"involvedObject.name": name}); err != nil {
			return fmt.Errorf("list the events of %s: %w", name, err)
		}
		g.facts.Events = append(g.facts.Events, list.Items...)
	}
	slices.SortStableFunc(g.facts.Events, func(a, b corev1.Event) int {
		return cmp.Or(lastSeen(a).Compare(lastSeen(b)), cmp.Compare(a.Name, b.Name))
	})
	return nil
}

// clusterEvents is where events about cluster-scoped objects are kept.
const clusterEvents = corev1.NamespaceDefault

func lastSeen(e corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}
