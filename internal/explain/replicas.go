package explain

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/members"
)

// replicaFindings looks below each replica that is not in sync for the deepest
// cause: its node, its pool's directory, its pod, then what the target says.
func replicaFindings(f *Facts) []Finding {
	if f.Volume == nil || f.Volume.DeletionTimestamp != nil {
		return nil
	}
	var all []Finding
	for _, r := range f.Volume.Status.Replicas {
		if r.State == v1alpha1.ReplicaInSync {
			continue
		}
		if r.Leaving != "" {
			all = append(all, f.leaving(r))
			continue
		}
		cause, next := f.replicaCause(r)
		all = append(all, Finding{
			Problem: fmt.Sprintf("Replica %s on node %s is %s: %s.", r.ID, r.Node, state(r), strings.TrimSuffix(cause, ".")),
			Next:    next,
		})
	}
	return all
}

// leaving says what a replica that leaves waits for.
func (f *Facts) leaving(r v1alpha1.VolumeReplica) Finding {
	x := Finding{Problem: fmt.Sprintf("Replica %s on node %s leaves the volume (%s): ", r.ID, r.Node, r.Leaving), Next: "wait"}
	n := f.node(r.Node)
	away := n == nil
	if n != nil {
		_, away = notReadySince(n)
	}
	switch {
	case members.Votes(&f.Volume.Status, r):
		x.Problem += "it votes until enough others are in sync."
	case away && n != nil:
		x.Problem += "its node is not ready, so its pod and extent cannot be seen to go."
		x.Next = "bring the node back, or `kubectl delete node " + r.Node + "`; nothing else waits for it"
	default:
		x.Problem += "its pod and its extent are being removed."
	}
	return x
}

func state(r v1alpha1.VolumeReplica) string {
	if r.State == "" {
		return v1alpha1.ReplicaUnknown
	}
	return r.State
}

func (f *Facts) replicaCause(r v1alpha1.VolumeReplica) (cause, next string) {
	if r.State == v1alpha1.ReplicaCatchingUp || r.State == v1alpha1.ReplicaRebuilding {
		return said(r, "it receives what it missed"), "wait; it counts again when it is complete"
	}
	n := f.node(r.Node)
	if n == nil {
		return "the node is not in the cluster", "wait: a replica is made on another node as soon as there is room for it"
	}
	if since, bad := notReadySince(n); bad {
		return "the node is not ready since " + f.age(since), "bring the node back; the replica then catches up by itself. " +
			"If it is gone for good: `kubectl delete node " + r.Node + "`, and a replica is made on another node"
	}
	if e := f.poolNode(r); e == nil {
		return fmt.Sprintf("StoragePool %s has no report from the node", r.Pool),
			fmt.Sprintf("see `kubectl -n cask-system get pods -l %s=%s -o wide`", v1alpha1.LabelPool, r.Pool)
	} else if !e.Ready {
		return fmt.Sprintf("StoragePool %s cannot use its directory there: %s: %s", r.Pool, e.Reason, e.Message), "do as the message says"
	}
	pod := f.replicaPod(r.ID)
	if pod == nil {
		return "it has no pod", "see that the operator runs: `kubectl -n cask-system get deploy cask-operator`"
	}
	if why, next := f.podTrouble(pod); why != "" {
		return "its pod " + pod.Name + " " + why, next
	}
	if r.Message == "" && r.Reason == "" {
		return "no target has reached it yet", "see the target's log: `kubectl -n cask-system logs deploy/" + f.Volume.Name + "-ctrl`"
	}
	return said(r, ""), "see its log: `kubectl -n cask-system logs " + pod.Name + "`"
}

func said(r v1alpha1.VolumeReplica, otherwise string) string {
	s := strings.TrimPrefix(strings.TrimSuffix(r.Reason+": "+r.Message, ": "), ": ")
	if s == "" {
		return otherwise
	}
	return s
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podTrouble says why a pod does not run; empty when it does.
func (f *Facts) podTrouble(p *corev1.Pod) (why, next string) {
	logs := "see `kubectl -n " + p.Namespace + " logs " + p.Name + " --previous`"
	if p.DeletionTimestamp != nil {
		return "is being stopped", "wait for the next one"
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "cannot be scheduled: " + oneLine(c.Message), "make room on a node that fits"
		}
	}
	for _, c := range p.Status.ContainerStatuses {
		switch {
		case c.State.Waiting != nil && c.LastTerminationState.Terminated != nil:
			t := c.LastTerminationState.Terminated
			return fmt.Sprintf("was restarted %d times (last: %s, exit status %d %s)", c.RestartCount, t.Reason, t.ExitCode, oneLine(t.Message)), logs
		case c.State.Waiting != nil && c.State.Waiting.Reason != "ContainerCreating":
			return fmt.Sprintf("cannot start: %s: %s", c.State.Waiting.Reason, oneLine(c.State.Waiting.Message)),
				"see `kubectl -n " + p.Namespace + " describe pod " + p.Name + "`"
		}
	}
	if p.Status.Phase == corev1.PodPending {
		return "is starting since " + f.age(p.CreationTimestamp.Time), "wait; then `kubectl -n " + p.Namespace + " describe pod " + p.Name + "`"
	}
	return "", ""
}
