package volume

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

// decideDeletion takes a deleted Volume apart, one stage at a time. It reports
// false while deletion is refused: the volume is then kept up as ever.
func (p *pass) decideDeletion() (done bool, err error) {
	if !slices.Contains(p.Volume.Finalizers, v1alpha1.FinalizerData) {
		return true, nil // nothing of ours left to account for
	}
	if !p.Volume.Releasing() { // from there on there is no way back
		if reason, message := p.refuseDeletion(); reason != "" {
			p.finding(v1alpha1.ConditionDeleting, metav1.ConditionFalse, reason, message)
			return false, nil
		}
	}
	p.want.State = v1alpha1.VolumeDeleting
	stages := []func() (string, string){p.stopTarget, p.stopReplicas, p.releaseExtents}
	for _, stage := range stages {
		if reason, message := stage(); reason != "" {
			p.finding(v1alpha1.ConditionDeleting, metav1.ConditionTrue, reason, message)
			return true, nil
		}
	}
	p.plan.Finalize = new(bool)
	return true, nil
}

// refuseDeletion says why the data must stay.
func (p *pass) refuseDeletion() (reason, message string) {
	name := p.Volume.Name
	switch {
	case p.Uninstalling:
		return "Uninstalling", fmt.Sprintf(
			"volume %s is kept: its kind is being deleted, and uninstalling deletes no data", name)
	case p.Volume.Spec.Attachment != nil:
		return "Attached", fmt.Sprintf(
			"volume %s is kept: it is attached to node %s; delete the pod that uses it, then its PersistentVolumeClaim", name, p.Volume.Spec.Attachment.Node)
	case p.PV == nil:
		return "", ""
	case p.PV.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain:
		return "PersistentVolumeRetained", fmt.Sprintf(
			"volume %s is kept: the reclaim policy of PersistentVolume %s is Retain; delete the PersistentVolume first", name, name)
	case p.PV.Status.Phase != corev1.VolumeReleased && p.PV.Status.Phase != corev1.VolumeFailed:
		return "PersistentVolumeInUse", fmt.Sprintf(
			"volume %s is kept: PersistentVolume %s is %s%s; delete the claim, and this follows", name, name, p.PV.Status.Phase, claimOf(p.PV))
	}
	return "", ""
}

func claimOf(pv *corev1.PersistentVolume) string {
	if c := pv.Spec.ClaimRef; c != nil {
		return fmt.Sprintf(" by PersistentVolumeClaim %s/%s", c.Namespace, c.Name)
	}
	return ""
}

func (p *pass) stopTarget() (reason, message string) {
	return p.stop(v1alpha1.RoleTarget, "StoppingTarget")
}

func (p *pass) stopReplicas() (reason, message string) {
	return p.stop(v1alpha1.RoleReplica, "StoppingReplicas")
}

// stop deletes the Deployments of a role and waits for their last pod.
func (p *pass) stop(role, reason string) (string, string) {
	waiting := false
	for _, d := range p.Deployments {
		if d.Labels[v1alpha1.LabelRole] == role {
			waiting = true
			if d.DeletionTimestamp == nil {
				p.plan.Delete = append(p.plan.Delete, &d)
			}
		}
	}
	var pods []string
	for i := range p.Pods {
		pod := &p.Pods[i]
		if pod.Labels[v1alpha1.LabelRole] != role {
			continue
		}
		waiting = true
		where := pod.Name
		if p.onLostNode(pod) {
			where = fmt.Sprintf("%s (node %s is not ready: bring it back or remove it from the cluster)", pod.Name, pod.Spec.NodeName)
		}
		pods = append(pods, where)
	}
	if !waiting {
		return "", ""
	}
	slices.Sort(pods)
	return reason, fmt.Sprintf("waiting until the %s pods of volume %s are gone: %s", role, p.Volume.Name, strings.Join(pods, ", "))
}

// releaseExtents waits until the IO containers have deleted every extent, or
// the node that had it has left the cluster.
func (p *pass) releaseExtents() (reason, message string) {
	var waiting []string
	for _, r := range p.want.Replicas {
		inCluster := slices.ContainsFunc(p.Nodes, func(n corev1.Node) bool { return n.Name == r.Node })
		if !r.Released && inCluster {
			waiting = append(waiting, fmt.Sprintf("%s by %s on %s", r.ID, resources.IOCName(r.Pool), r.Node))
		}
	}
	if len(waiting) == 0 {
		return "", ""
	}
	return v1alpha1.ReasonReleasingExtents, fmt.Sprintf("waiting until the extents of volume %s are deleted: %s", p.Volume.Name, strings.Join(waiting, ", "))
}
