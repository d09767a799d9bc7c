package resources

import (
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// IOCName names a pool's DaemonSet.
func IOCName(pool string) string { return "ioc-" + pool }

// IOC is the DaemonSet of a pool's IO containers: on the nodes the pool
// selects, and on those that still hold replicas of it.
func (s Settings) IOC(p *v1alpha1.StoragePool, holding []string) *appsv1.DaemonSet {
	labels := map[string]string{v1alpha1.LabelPool: p.Name, v1alpha1.LabelRole: v1alpha1.RoleIOC}
	d := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       s.Namespace,
			Name:            IOCName(p.Name),
			Labels:          nameLabels(labels, v1alpha1.RoleIOC),
			OwnerReferences: ownedBy(p, "StoragePool"),
		},
		Spec: appsv1.DaemonSetSpec{
			RevisionHistoryLimit: ptr.To[int32](2),
			Selector:             &metav1.LabelSelector{MatchLabels: labels},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(1))},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: nameLabels(labels, v1alpha1.RoleIOC)},
				Spec:       s.iocPod(p, holding),
			},
		},
	}
	d.Annotations = map[string]string{AnnotationHash: hash(d.Spec)}
	return d
}

func (s Settings) iocPod(p *v1alpha1.StoragePool, holding []string) corev1.PodSpec {
	return corev1.PodSpec{
		ServiceAccountName:            ServiceAccountIOC,
		PriorityClassName:             PriorityNode,
		EnableServiceLinks:            ptr.To(false),
		DNSPolicy:                     corev1.DNSDefault,
		TerminationGracePeriodSeconds: ptr.To[int64](15),
		Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Affinity:                      iocAffinity(p, holding),
		SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{
			Name:  "ioc",
			Image: s.image("ioc"),
			Args:  []string{"--pool=" + p.Name, "--pool-dir=/pool"},
			Env: []corev1.EnvVar{
				fromField("NODE_NAME", "spec.nodeName"),
				fromField("POD_NAME", "metadata.name"),
				{Name: "GOMEMLIMIT", Value: strconv.FormatInt(s.IOCLimits.Planned(), 10)},
			},
			Ports:          []corev1.ContainerPort{port("health", v1alpha1.PortHealth)},
			Resources:      s.IOCLimits.requirements(),
			LivenessProbe:  probe("/healthz", 10, 6),
			ReadinessProbe: probe("/readyz", 5, 2),
			// Root, with three capabilities of root's: it makes files in a
			// directory of the node and gives them to the replicas' user.
			SecurityContext: &corev1.SecurityContext{
				RunAsUser:                ptr.To[int64](0),
				AllowPrivilegeEscalation: ptr.To(false),
				ReadOnlyRootFilesystem:   ptr.To(true),
				Capabilities: &corev1.Capabilities{
					Drop: []corev1.Capability{"ALL"},
					Add:  []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER"},
				},
			},
			// A disk mounted there later on must be seen.
			VolumeMounts: []corev1.VolumeMount{{Name: "pool", MountPath: "/pool", MountPropagation: ptr.To(corev1.MountPropagationHostToContainer)}},
		}},
		Volumes: []corev1.Volume{{Name: "pool", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: p.Spec.Directory, Type: ptr.To(corev1.HostPathDirectoryOrCreate)},
		}}},
	}
}

// iocAffinity is nil when every node is selected.
func iocAffinity(p *v1alpha1.StoragePool, holding []string) *corev1.Affinity {
	selected := selectorTerm(p.Spec.NodeSelector)
	if len(selected.MatchExpressions) == 0 {
		return nil
	}
	terms := []corev1.NodeSelectorTerm{selected}
	if len(holding) > 0 {
		nodes := slices.Clone(holding)
		slices.Sort(nodes)
		terms = append(terms, onNodes(slices.Compact(nodes)...)...)
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
	}}
}

// selectorTerm says a label selector in the words of node affinity.
func selectorTerm(sel *metav1.LabelSelector) corev1.NodeSelectorTerm {
	var term corev1.NodeSelectorTerm
	if sel == nil {
		return term
	}
	for key, value := range sel.MatchLabels {
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
			Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value},
		})
	}
	slices.SortFunc(term.MatchExpressions, func(a, b corev1.NodeSelectorRequirement) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	for _, e := range sel.MatchExpressions {
		term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{
			Key: e.Key, Operator: corev1.NodeSelectorOperator(e.Operator), Values: e.Values,
		})
	}
	return term
}
