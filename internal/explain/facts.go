package explain

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// Facts is what the API server knows about one volume.
type Facts struct {
	Now       time.Time
	Claim     *corev1.PersistentVolumeClaim // nil when none uses the volume
	Class     *storagev1.StorageClass       // of Claim; nil when it does not exist
	PV        *corev1.PersistentVolume      // nil when not made, or gone
	Volume    *v1alpha1.Volume              // nil when not made, or gone
	Consumers []corev1.Pod                  // pods that name Claim
	Pods      []corev1.Pod                  // of the target and the replicas
	Nodes     []corev1.Node
	Pools     []v1alpha1.StoragePool
	Events    []corev1.Event // about Claim, PV and Volume, oldest first
}

func (f *Facts) node(name string) *corev1.Node {
	for i := range f.Nodes {
		if f.Nodes[i].Name == name {
			return &f.Nodes[i]
		}
	}
	return nil
}

// poolNode is a node's entry in a pool, nil when there is none.
func (f *Facts) poolNode(r v1alpha1.VolumeReplica) *v1alpha1.PoolNode {
	for _, p := range f.Pools {
		for i := range p.Status.Nodes {
			if p.Name == r.Pool && p.Status.Nodes[i].Name == r.Node {
				return &p.Status.Nodes[i]
			}
		}
	}
	return nil
}

// pod is the newest pod with all of these labels, nil when there is none.
func (f *Facts) pod(labels map[string]string) *corev1.Pod {
	var found *corev1.Pod
	for i := range f.Pods {
		p := &f.Pods[i]
		match := true
		for k, v := range labels {
			match = match && p.Labels[k] == v
		}
		if match && (found == nil || found.CreationTimestamp.Before(&p.CreationTimestamp)) {
			found = p
		}
	}
	return found
}

func (f *Facts) targetPod() *corev1.Pod {
	return f.pod(map[string]string{v1alpha1.LabelRole: v1alpha1.RoleTarget})
}

func (f *Facts) replicaPod(id string) *corev1.Pod {
	return f.pod(map[string]string{v1alpha1.LabelRole: v1alpha1.RoleReplica, v1alpha1.LabelReplica: id})
}

// notReadySince is when a node stopped being ready; zero while it is.
func notReadySince(n *corev1.Node) (since time.Time, notReady bool) {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastTransitionTime.Time, c.Status != corev1.ConditionTrue
		}
	}
	return time.Time{}, true
}
