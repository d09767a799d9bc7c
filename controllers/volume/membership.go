package volume

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
	"github.com/cask-storage/cask/internal/members"
)

// Why a replica leaves.
const (
	LeavingSurplus  = "Surplus"  // spec.replicas is less
	LeavingAsked    = "Asked"    // AnnotationReplace names it
	LeavingNodeGone = "NodeGone" // its node is no longer in the cluster
	LeavingNodeLost = "NodeLost" // its node has been lost for spec.replaceAfter
)

// members brings the replicas' number to the spec's, and has those replaced that
// are lost for good. A replica that is to be replaced leaves only when another
// one has got a place.
func (p *pass) members() error {
	p.zones()
	p.dropped()
	var keep, doomed, staying []string
	why := map[string]string{}
	for _, r := range p.want.Replicas {
		if r.Leaving != "" {
			continue
		}
		staying = append(staying, r.ID)
		if reason := p.lost(r); reason != "" {
			doomed, why[r.ID] = append(doomed, r.ID), reason
		} else {
			keep = append(keep, r.ID)
		}
	}
	want := int(p.Volume.Spec.Replicas)
	added, err := p.more(keep, want-len(keep))
	if err != nil {
		return err
	}
	p.less(staying, doomed, why, len(staying)+added-want)
	return nil
}

// zones follows the labels of the nodes; what was known stays while a node is
// away.
func (p *pass) zones() {
	for _, n := range p.Nodes {
		zone := n.Labels[corev1.LabelTopologyZone]
		if zone == "" {
			continue
		}
		if p.want.Target.Node == n.Name {
			p.want.Target.Zone = zone
		}
		for i := range p.want.Replicas {
			if p.want.Replicas[i].Node == n.Name {
				p.want.Replicas[i].Zone = zone
			}
		}
	}
}

// dropped takes those off the list of which nothing is left.
func (p *pass) dropped() {
	p.want.Replicas = slices.DeleteFunc(p.want.Replicas, func(r v1alpha1.VolumeReplica) bool {
		_, service := p.Services[resources.ReplicaName(p.Volume.Name, r.ID)]
		return members.Left(p.want, r) && r.Releasing && !service && (r.Released || p.node(r.Node) == nil)
	})
}

func (p *pass) node(name string) *corev1.Node {
	i := slices.IndexFunc(p.Nodes, func(n corev1.Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Nodes[i]
}

// lost says why a replica is to be replaced; empty when it is not.
func (p *pass) lost(r v1alpha1.VolumeReplica) string {
	n := p.node(r.Node)
	asked := strings.FieldsFunc(p.Volume.Annotations[v1alpha1.AnnotationReplace], func(c rune) bool { return c == ',' || c == ' ' })
	switch {
	case slices.Contains(asked, r.ID):
		return LeavingAsked
	case n == nil:
		return LeavingNodeGone
	case nodeReady(n) || p.Volume.Spec.ReplaceAfter == nil:
		return ""
	}
	left := p.Volume.Spec.ReplaceAfter.Duration - p.Now.Sub(notReadySince(n))
	if left <= 0 {
		return LeavingNodeLost
	}
	p.again(left)
	return ""
}

// again has the volume looked at after d at the latest.
func (p *pass) again(d time.Duration) {
	if p.plan.Again == 0 || d < p.plan.Again {
		p.plan.Again = d
	}
}

func notReadySince(n *corev1.Node) time.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastTransitionTime.Time
		}
	}
	return n.CreationTimestamp.Time
}

// more finds places for n replicas beside those to keep, and returns how many
// there are now. One that is leaving only because it was one too many, and still
// votes, is kept instead.
func (p *pass) more(keep []string, n int) (added int, err error) {
	for i := range p.want.Replicas {
		r := &p.want.Replicas[i]
		if added < n && r.Leaving == LeavingSurplus && members.Votes(p.want, *r) {
			r.Leaving = ""
			keep = append(keep, r.ID)
			added++
		}
	}
	for added < n && p.Placing {
		site, err := p.chooseMore(keep)
		var refused *Unplaced
		if errors.As(err, &refused) {
			p.finding(v1alpha1.ConditionPlaced, metav1.ConditionFalse, refused.Reason, refused.Message)
			p.again(retryPlacement)
			return added, nil
		}
		if err != nil {
			return added, err
		}
		keep = append(keep, p.place1(site))
		added++
	}
	if added >= n {
		p.placed()
	}
	return added, nil
}

// chooseMore finds a place for one more replica.
func (p *pass) chooseMore(keep []string) (Site, error) {
	d := p.demand()
	d.Replicas = 1
	d.Avoid = map[string]bool{}
	for _, r := range p.want.Replicas {
		if slices.Contains(keep, r.ID) {
			d.Beside = append(d.Beside, Site{Node: r.Node, Pool: r.Pool, Zone: r.Zone})
		} else {
			d.Avoid[r.Node] = true
		}
	}
	placed, err := p.choose(d)
	if err != nil {
		return Site{}, err
	}
	return placed[0], nil
}

// place1 records a place and returns the new replica's ID.
func (p *pass) place1(s Site) string {
	next := p.want.NextReplica
	for _, r := range p.want.Replicas { // of a status older than the number
		var n int32
		if _, err := fmt.Sscanf(r.ID, "r%d", &n); err == nil {
			next = max(next, n+1)
		}
	}
	p.want.NextReplica = next + 1
	id := fmt.Sprintf("r%d", next)
	p.want.Replicas = append(p.want.Replicas, v1alpha1.VolumeReplica{ID: id, Node: s.Node, Pool: s.Pool, Zone: s.Zone, State: v1alpha1.ReplicaUnknown})
	return id
}

// placed says where the replicas are.
func (p *pass) placed() {
	var on []string
	for _, r := range p.want.Replicas {
		if !members.Left(p.want, r) {
			on = append(on, fmt.Sprintf("%s on %s in pool %s", r.ID, r.Node, r.Pool))
		}
	}
	p.finding(v1alpha1.ConditionPlaced, metav1.ConditionTrue, ReasonPlaced, strings.Join(on, ", "))
}

// less has n of those that stay leave: first those that are lost, then those
// whose loss costs least.
func (p *pass) less(staying, doomed []string, why map[string]string, n int) {
	perZone := map[string]int{}
	for _, r := range p.want.Replicas {
		if r.Leaving == "" {
			perZone[r.Zone]++
		}
	}
	for ; n > 0 && len(staying) > 0; n-- {
		id := slices.MinFunc(staying, func(a, b string) int {
			return cmp.Or(
				first(slices.Contains(doomed, a), slices.Contains(doomed, b)),
				p.cheaper(p.replica(a), p.replica(b), perZone))
		})
		r := p.replica(id)
		r.Leaving = cmp.Or(why[id], LeavingSurplus)
		perZone[r.Zone]--
		staying = slices.DeleteFunc(staying, func(s string) bool { return s == id })
		p.plan.Events = append(p.plan.Events, Event{Reason: "ReplicaLeaves", Message: fmt.Sprintf(
			"replica %s on %s is to leave volume %s (%s): its vote goes first, then its pod and its extent", id, r.Node, p.Volume.Name, r.Leaving)})
	}
}

// cheaper orders replicas by what their leaving costs.
func (p *pass) cheaper(a, b *v1alpha1.VolumeReplica, perZone map[string]int) int {
	return cmp.Or(
		first(p.away(a), p.away(b)),
		first(!members.Votes(p.want, *a), !members.Votes(p.want, *b)),
		first(a.State != v1alpha1.ReplicaInSync, b.State != v1alpha1.ReplicaInSync),
		first(a.Node != p.want.Target.Node, b.Node != p.want.Target.Node),
		perZone[b.Zone]-perZone[a.Zone],
		cmp.Compare(b.ID, a.ID)) // the newest
}

// first orders what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (p *pass) away(r *v1alpha1.VolumeReplica) bool {
	n := p.node(r.Node)
	return n == nil || !nodeReady(n)
}

func (p *pass) replica(id string) *v1alpha1.VolumeReplica {
	i := slices.IndexFunc(p.want.Replicas, func(r v1alpha1.VolumeReplica) bool { return r.ID == id })
	return &p.want.Replicas[i]
}

// leave takes replicas down that have lost their vote: the pod, then the
// Service, then the extent. That they never vote again is the record's rule: see
// v1alpha1.VolumeReplica.Leaving.
func (p *pass) leave() {
	for i := range p.want.Replicas {
		r := &p.want.Replicas[i]
		if !members.Left(p.want, *r) {
			continue
		}
		name := resources.ReplicaName(p.Volume.Name, r.ID)
		d, running := p.Deployments[name]
		if running && d.DeletionTimestamp == nil {
			p.plan.Delete = append(p.plan.Delete, &d)
		}
		running = running || slices.ContainsFunc(p.Pods, func(pod corev1.Pod) bool {
			return pod.Labels[v1alpha1.LabelRole] == v1alpha1.RoleReplica && pod.Labels[v1alpha1.LabelReplica] == r.ID
		})
		if running {
			continue
		}
		if svc, ok := p.Services[name]; ok && svc.DeletionTimestamp == nil {
			p.plan.Delete = append(p.plan.Delete, &svc)
		}
		r.Releasing = true
	}
}
