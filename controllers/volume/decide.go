package volume

import (
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/conditions"
	"github.com/cask-storage/cask/controllers/internal/resources"
	"github.com/cask-storage/cask/internal/members"
)

// retryPlacement is how often a volume without a place is tried again, besides
// whenever a pool or node changes.
const retryPlacement = time.Minute

// retryConflict gives the cache time to catch up with who was faster.
const retryConflict = 200 * time.Millisecond

// Event is something to tell people about the Volume.
type Event struct {
	Warning         bool
	Reason, Message string
}

// Plan is what one pass does, in this order; an empty one is a volume that is
// as it should be.
type Plan struct {
	Finalize *bool                  // add (true) or remove (false) the finalizer
	Status   *v1alpha1.VolumeStatus // recorded before anything below is done
	Create   []client.Object
	Update   []client.Object
	Delete   []client.Object
	Events   []Event
	Again    time.Duration // look again after; 0 waits for a change
}

// pass is the working state of one decision.
type pass struct {
	*Snapshot
	settings resources.Settings
	want     *v1alpha1.VolumeStatus
	found    *conditions.Set
	plan     Plan
}

// Decide is the whole of the operator's policy for a Volume. Pure.
func Decide(s *Snapshot, settings resources.Settings) (Plan, error) {
	p := &pass{Snapshot: s, settings: settings, want: s.Volume.Status.DeepCopy(), found: conditions.New()}
	if err := p.decide(); err != nil {
		return Plan{}, err
	}
	p.conclude()
	return p.plan, nil
}

func (p *pass) decide() error {
	if p.Volume.DeletionTimestamp != nil {
		if done, err := p.decideDeletion(); done || err != nil {
			return err
		}
	} else if !controllerutil.ContainsFinalizer(p.Volume, v1alpha1.FinalizerData) {
		p.plan.Finalize = new(bool)
		*p.plan.Finalize = true
		return nil
	}
	p.authentication()
	p.nodesAuthentication()
	if placed, err := p.place(); !placed || err != nil {
		return err
	}
	return p.pods()
}

// conclude turns findings into conditions, a status write and events.
func (p *pass) conclude() {
	if p.want.State == "" {
		p.want.State = v1alpha1.VolumePending
	}
	for _, c := range p.found.Apply(&p.want.Conditions, p.Volume.Generation) {
		if c.Reason == reasonPodMissing || c.Reason == reasonStarting || c.Reason == reasonMakingKeys {
			continue // no news while a volume comes up
		}
		p.plan.Events = append(p.plan.Events, Event{Warning: c.Status != metav1.ConditionTrue, Reason: c.Reason, Message: c.Message})
	}
	if !equalStatus(p.want, &p.Volume.Status) {
		p.plan.Status = p.want
	}
}

// place reports whether the replicas have their places.
func (p *pass) place() (bool, error) {
	if len(p.want.Replicas) > 0 && p.Volume.DeletionTimestamp != nil {
		return true, nil
	}
	if len(p.want.Replicas) > 0 {
		return true, p.members()
	}
	if p.Volume.DeletionTimestamp != nil {
		return false, nil
	}
	if p.want.Initialized || p.want.Epoch != 0 || len(p.want.Voters) != 0 || p.built() {
		p.finding(v1alpha1.ConditionPlaced, metav1.ConditionFalse, "PlacementLost", fmt.Sprintf(
			"volume %[1]s has been used, but its status no longer says where its replicas are; restore status.replicas (id, node, pool) and voters from a "+
				"backup of the object: its extents are named %[1]s-<id> in the pools, and its Deployments %[1]s-rep-<id>", p.Volume.Name))
		return false, nil
	}
	if !p.Placing {
		return false, nil
	}
	placed, err := p.choose(p.demand())
	var refused *Unplaced
	if errors.As(err, &refused) && p.ClaimGone {
		p.plan.Delete = append(p.plan.Delete, p.Volume)
		p.plan.Events = append(p.plan.Events, Event{Reason: "ClaimGone", Message: fmt.Sprintf(
			"the claim %s is gone before volume %s could be placed; nothing was ever written to it: it is deleted", p.Volume.Spec.Claim, p.Volume.Name)})
		return false, nil
	}
	if errors.As(err, &refused) {
		p.finding(v1alpha1.ConditionPlaced, metav1.ConditionFalse, refused.Reason, refused.Message)
		p.again(retryPlacement)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	p.record(placed)
	return false, nil // what was chosen is recorded before it is built on
}

// built reports whether anything was made for the volume: never before its places
// are in the status.
func (p *pass) built() bool {
	for _, d := range p.Deployments {
		if metav1.IsControlledBy(&d, p.Volume) {
			return true
		}
	}
	for _, svc := range p.Services {
		if metav1.IsControlledBy(&svc, p.Volume) {
			return true
		}
	}
	return false
}

func (p *pass) demand() Demand {
	return Demand{
		Volume:    p.Volume.Name,
		Size:      p.Volume.Spec.Size.String(),
		Replicas:  int(p.Volume.Spec.Replicas),
		Extent:    ExtentSize(p.Volume.Spec.Size.Value()),
		Preferred: p.Volume.Spec.PreferredNode,
		Zones:     p.Volume.Spec.Zones,
	}
}

func (p *pass) choose(d Demand) ([]Site, error) {
	pools, err := matchingPools(p.Volume, p.Pools)
	if err != nil {
		return nil, err
	}
	all, err := sites(p.Snapshot, pools)
	if err != nil {
		return nil, err
	}
	return Place(d, all)
}

func (p *pass) record(places []Site) {
	for _, s := range places {
		p.want.Voters = append(p.want.Voters, p.place1(s))
	}
	p.placed()
}

func (p *pass) finding(typ string, status metav1.ConditionStatus, reason, message string) {
	p.found.Add(metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message})
}

// pods brings the volume's own objects about, each kind when what it needs is
// there.
func (p *pass) pods() error {
	p.services()
	if p.want.Target.Address == "" || slices.ContainsFunc(p.want.Replicas, func(r v1alpha1.VolumeReplica) bool { return r.Address == "" }) {
		return nil
	}
	if !equalStatus(p.want, &p.Volume.Status) {
		return nil // addresses first
	}
	p.budget()
	p.leave()
	p.deployments()
	p.running()
	return nil
}

// services makes the addresses of the volume and keeps them in its status.
func (p *pass) services() {
	if svc := p.service(p.settings.TargetService(p.Volume)); svc != nil {
		p.want.Target.Address = address(svc, p.Volume.FrontendPort())
	}
	for i := range p.want.Replicas {
		r := &p.want.Replicas[i]
		if members.Left(p.want, *r) {
			continue
		}
		if svc := p.service(p.settings.ReplicaService(p.Volume, r.ID)); svc != nil {
			r.Address = address(svc, v1alpha1.PortReplication)
		}
	}
}

// service is the existing Service like want, or nil after planning to make it.
func (p *pass) service(want *corev1.Service) *corev1.Service {
	have, ok := p.Services[want.Name]
	if !ok {
		p.plan.Create = append(p.plan.Create, want)
		return nil
	}
	if !metav1.IsControlledBy(&have, p.Volume) || have.Spec.ClusterIP == "" {
		return nil
	}
	return &have
}

func address(svc *corev1.Service, port int) string {
	return hostPort(svc.Spec.ClusterIP, port)
}

func (p *pass) budget() {
	want := p.settings.Budget(p.Volume)
	switch {
	case p.Budget == nil:
		p.plan.Create = append(p.plan.Create, want)
	case p.Budget.Annotations[resources.AnnotationHash] != want.Annotations[resources.AnnotationHash]:
		have := p.Budget.DeepCopy()
		have.Annotations, have.Spec = want.Annotations, want.Spec
		p.plan.Update = append(p.plan.Update, have)
	}
}

// deployments creates what is missing and renews what is outdated, the latter
// one at a time, never so that a replica in sync is missed, and the target last.
func (p *pass) deployments() {
	var outdated *appsv1.Deployment
	busy := false // some replica is not yet what it is going to be
	for _, r := range p.inUse() {
		want := p.replicaDeployment(r)
		if want == nil {
			continue
		}
		have, ok := p.Deployments[want.Name]
		switch {
		case !ok:
			p.plan.Create = append(p.plan.Create, want)
		case !stale(&have, want):
			busy = busy || p.coming(r, &have)
			continue
		case outdated == nil && p.mayRestart(r):
			outdated = renewed(&have, want)
		}
		busy = true
	}
	if outdated != nil {
		p.plan.Update = append(p.plan.Update, outdated)
	}
	if p.Volume.NodesAuthenticate() && !p.Keys.usable(p.Volume) {
		return // the target there is goes on with the keys it has
	}
	want := p.settings.Target(p.Volume, p.Keys.Secret)
	have, ok := p.Deployments[want.Name]
	switch {
	case !ok:
		p.plan.Create = append(p.plan.Create, want)
	case stale(&have, want) && (!busy || !p.serving()):
		p.plan.Update = append(p.plan.Update, renewed(&have, want))
	}
}

// inUse are the replicas that something counts on, or is to.
func (p *pass) inUse() []v1alpha1.VolumeReplica {
	return slices.DeleteFunc(slices.Clone(p.want.Replicas), func(r v1alpha1.VolumeReplica) bool { return members.Left(p.want, r) })
}

// coming reports whether a replica is on its way to being in sync; one whose
// node is away is not waited for.
func (p *pass) coming(r v1alpha1.VolumeReplica, d *appsv1.Deployment) bool {
	if r.State == v1alpha1.ReplicaCatchingUp || r.State == v1alpha1.ReplicaRebuilding {
		return true
	}
	return !rolledOut(d) && slices.ContainsFunc(p.Nodes, func(n corev1.Node) bool { return n.Name == r.Node && nodeReady(&n) })
}

func (p *pass) replicaDeployment(r v1alpha1.VolumeReplica) *appsv1.Deployment {
	i := slices.IndexFunc(p.Pools, func(sp v1alpha1.StoragePool) bool { return sp.Name == r.Pool })
	if i < 0 {
		p.finding(v1alpha1.ConditionPodsReady, metav1.ConditionFalse, "PoolMissing", fmt.Sprintf(
			"replica %s on %s needs StoragePool %s, which does not exist; create it again with the same directory", r.ID, r.Node, r.Pool))
		return nil
	}
	return p.settings.Replica(p.Volume, r, p.Pools[i].Spec.Directory)
}

// mayRestart reports whether restarting a replica costs nothing that is
// needed: it counts for nothing now, or all others are in sync and up.
func (p *pass) mayRestart(r v1alpha1.VolumeReplica) bool {
	if !p.serving() || r.State != v1alpha1.ReplicaInSync {
		return true
	}
	for _, o := range p.inUse() {
		if o.ID == r.ID {
			continue
		}
		d, ok := p.Deployments[resources.ReplicaName(p.Volume.Name, o.ID)]
		if o.State != v1alpha1.ReplicaInSync || !ok || !rolledOut(&d) {
			return false
		}
	}
	return true
}

func (p *pass) serving() bool {
	return p.want.State == v1alpha1.VolumeHealthy || p.want.State == v1alpha1.VolumeDegraded
}

func stale(have, want *appsv1.Deployment) bool {
	return have.Annotations[resources.AnnotationHash] != want.Annotations[resources.AnnotationHash]
}

func renewed(have, want *appsv1.Deployment) *appsv1.Deployment {
	d := have.DeepCopy()
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[resources.AnnotationHash] = want.Annotations[resources.AnnotationHash]
	d.Labels, d.Spec = want.Labels, want.Spec
	return d
}

// rolledOut reports whether the Deployment's one pod is the newest and has been
// ready for a while.
func rolledOut(d *appsv1.Deployment) bool {
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == 1 && d.Status.AvailableReplicas == 1
}
