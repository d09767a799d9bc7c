package volume

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// Reasons of a pod that is on its way.
const (
	reasonPodMissing = "PodMissing"
	reasonStarting   = "Starting"
)

// running finds what keeps the volume's pods from running, and whether the
// target that wrote the status is still there.
func (p *pass) running() {
	p.target()
	p.podFinding("target", p.newest(v1alpha1.RoleTarget, ""))
	for _, r := range p.inUse() {
		pod := p.newest(v1alpha1.RoleReplica, r.ID)
		p.podFinding("replica "+r.ID+" on "+r.Node, pod)
	}
	p.finding(v1alpha1.ConditionPodsReady, metav1.ConditionTrue, "AllReady", "every pod of the volume is ready")
}

// target corrects a status whose writer is gone: nobody serves until the next
// target says so itself.
func (p *pass) target() {
	writer := p.want.Target.Pod
	serving := meta.IsStatusConditionTrue(p.want.Conditions, v1alpha1.ConditionServing)
	if writer == "" || !serving {
		return
	}
	i := slices.IndexFunc(p.Pods, func(pod corev1.Pod) bool { return pod.Name == writer })
	if i >= 0 && p.Pods[i].DeletionTimestamp == nil && !p.onLostNode(&p.Pods[i]) {
		return
	}
	p.want.State = v1alpha1.VolumeSuspended
	p.finding(v1alpha1.ConditionServing, metav1.ConditionFalse, "TargetGone", fmt.Sprintf(
		"target pod %s on %s is gone; I/O waits for the next one", writer, p.want.Target.Node))
}

func (p *pass) onLostNode(pod *corev1.Pod) bool {
	i := slices.IndexFunc(p.Nodes, func(n corev1.Node) bool { return n.Name == pod.Spec.NodeName })
	return i < 0 && pod.Spec.NodeName != "" || i >= 0 && !nodeReady(&p.Nodes[i])
}

// newest is the pod of a role that is not on its way out, if any.
func (p *pass) newest(role, id string) *corev1.Pod {
	var newest *corev1.Pod
	for i := range p.Pods {
		pod := &p.Pods[i]
		if pod.Labels[v1alpha1.LabelRole] != role || pod.Labels[v1alpha1.LabelReplica] != id || pod.DeletionTimestamp != nil {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&pod.CreationTimestamp) {
			newest = pod
		}
	}
	return newest
}

func (p *pass) podFinding(who string, pod *corev1.Pod) {
	switch {
	case pod == nil:
		p.finding(v1alpha1.ConditionPodsReady, metav1.ConditionFalse, reasonPodMissing, who+" has no pod yet")
	case p.onLostNode(pod):
		p.finding(v1alpha1.ConditionPodsReady, metav1.ConditionFalse, "NodeNotReady", fmt.Sprintf(
			"%s: node %s is not ready; bring it back, the replica catches up by itself", who, pod.Spec.NodeName))
	case !podReady(pod):
		reason, message := whyNotReady(pod)
		p.finding(v1alpha1.ConditionPodsReady, metav1.ConditionFalse, reason, fmt.Sprintf(
			"%s: pod %s is not ready: %s; see `kubectl -n %s describe pod %s`", who, pod.Name, message, pod.Namespace, pod.Name))
	}
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// whyNotReady is the most telling reason a pod's status gives; none of its
// words changes from retry to retry.
func whyNotReady(pod *corev1.Pod) (reason, message string) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "Unschedulable", c.Message
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" {
			return w.Reason, "container " + c.Name + " waits: " + w.Reason
		}
		if t := c.LastTerminationState.Terminated; t != nil && t.Reason == "OOMKilled" {
			return "OOMKilled", "container " + c.Name + " was killed for want of memory"
		}
	}
	return reasonStarting, "it is starting"
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

func equalStatus(a, b *v1alpha1.VolumeStatus) bool { return equality.Semantic.DeepEqual(a, b) }
