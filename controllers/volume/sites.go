package volume

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// matchingPools are the pools a volume may use, or why there is none.
func matchingPools(v *v1alpha1.Volume, pools []v1alpha1.StoragePool) ([]v1alpha1.StoragePool, error) {
	match, wanted, err := poolFilter(v)
	if err != nil {
		return nil, err
	}
	var matching []v1alpha1.StoragePool
	var others []string
	for _, p := range pools {
		switch {
		case !match(p):
			others = append(others, fmt.Sprintf("%s (labels: %s)", p.Name, labelsOf(p)))
		case p.DeletionTimestamp != nil:
			others = append(others, p.Name+" (being deleted)")
		default:
			matching = append(matching, p)
		}
	}
	if len(matching) > 0 {
		return matching, nil
	}
	there := "there is none"
	if len(others) > 0 {
		slices.Sort(others)
		there = "there are " + strings.Join(others, ", ")
	}
	return nil, &Unplaced{ReasonNoPoolMatches, fmt.Sprintf(
		"volume %s needs a StoragePool %s, and %s; create one, or correct the StorageClass", v.Name, wanted, there)}
}

// poolFilter says which pools a volume asks for, in code and in words.
func poolFilter(v *v1alpha1.Volume) (func(v1alpha1.StoragePool) bool, string, error) {
	if v.Spec.Pool != "" {
		return func(p v1alpha1.StoragePool) bool { return p.Name == v.Spec.Pool }, "named " + v.Spec.Pool, nil
	}
	if v.Spec.PoolSelector == nil {
		return func(v1alpha1.StoragePool) bool { return true }, "of any name", nil
	}
	sel, err := metav1.LabelSelectorAsSelector(v.Spec.PoolSelector)
	if err != nil {
		return nil, "", &Unplaced{ReasonNoPoolMatches, fmt.Sprintf("volume %s: poolSelector: %v; correct the StorageClass", v.Name, err)}
	}
	match := func(p v1alpha1.StoragePool) bool { return sel.Matches(labels.Set(p.Labels)) }
	return match, "with labels " + sel.String(), nil
}

func labelsOf(p v1alpha1.StoragePool) string {
	if len(p.Labels) == 0 {
		return "none"
	}
	return labels.Set(p.Labels).String()
}

// sites lists where replicas could go: each reported node of each pool, and
// each selected node that reports nothing, with the reason it is unfit.
func sites(s *Snapshot, pools []v1alpha1.StoragePool) ([]Site, error) {
	var all []Site
	for _, p := range pools {
		selector, err := nodeSelector(&p)
		if err != nil {
			return nil, err
		}
		for _, n := range s.Nodes {
			if !selector.Matches(labels.Set(n.Labels)) {
				continue
			}
			all = append(all, siteOf(s, &p, &n))
		}
	}
	return all, nil
}

// nodeSelector is the pool's node selector; everything when it has none.
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

func siteOf(s *Snapshot, p *v1alpha1.StoragePool, n *corev1.Node) Site {
	site := Site{Node: n.Name, Pool: p.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
	i := slices.IndexFunc(p.Status.Nodes, func(e v1alpha1.PoolNode) bool { return e.Name == n.Name })
	switch {
	case !nodeReady(n):
		site.Unfit = "is not ready"
	case n.Spec.Unschedulable:
		site.Unfit = "is cordoned"
	case i < 0:
		site.Unfit = "has no report from pool " + p.Name
	case !p.Status.Nodes[i].Ready:
		e := p.Status.Nodes[i]
		site.Unfit = strings.TrimSpace(fmt.Sprintf("is not ready in pool %s: %s %s", p.Name, e.Reason, e.Message))
	}
	if i >= 0 {
		e := p.Status.Nodes[i]
		unmade := max(0, placedOn(s.Others, n.Name, p.Name)-e.Promised.Value())
		site.Available = e.Available.Value() - unmade
	}
	return site
}

// placedOn sums the extents of the replicas that have a place on a site,
// whether they have been made yet or not.
func placedOn(volumes []v1alpha1.Volume, node, pool string) int64 {
	var sum int64
	for _, v := range volumes {
		for _, r := range v.Status.Replicas {
			if r.Node == node && r.Pool == pool && !r.Released {
				sum += ExtentSize(v.Spec.Size.Value())
			}
		}
	}
	return sum
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
