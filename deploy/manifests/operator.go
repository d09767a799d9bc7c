package manifests

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The priority classes: what a node's volumes depend on before the volumes,
// and those before what makes new ones.
const (
	priorityNode    = "cask-node"
	priorityVolume  = "cask-volume"
	priorityControl = "cask-control"
)

const unprivileged = 65532

func (p Params) priorities() []client.Object {
	class := func(name string, value int32, what string) client.Object {
		return &schedulingv1.PriorityClass{
			TypeMeta: typeMeta("scheduling.k8s.io/v1", "PriorityClass"), ObjectMeta: clusterMeta(name), Value: value, Description: what,
		}
	}
	return []client.Object{
		class(priorityNode, 1_000_000_000, "Cask pods that every volume of a node depends on"),
		class(priorityVolume, 900_000_000, "Cask targets and replicas: the data of one volume each"),
		class(priorityControl, 800_000_000, "Cask operator and CSI controller"),
	}
}

func (p Params) operator() client.Object {
	container := corev1.Container{
		Name:  "operator",
		Image: p.image("operator"),
		Args: []string{
			"--namespace=" + p.Namespace,
			"--image-prefix=" + p.ImagePrefix,
			"--image-tag=" + p.ImageTag,
			"--node-failure-grace=" + p.NodeFailureGrace,
		},
		Ports:           []corev1.ContainerPort{port("metrics", 8080), port("health", 8081)},
		Resources:       requests("50m", "64Mi", "256Mi"),
		LivenessProbe:   probe("health", "/healthz"),
		ReadinessProbe:  probe("health", "/readyz"),
		SecurityContext: confined(),
	}
	pod := corev1.PodSpec{
		ServiceAccountName: saOperator,
		PriorityClassName:  priorityControl,
		EnableServiceLinks: ptr.To(false),
		Tolerations:        leaveAtOnce(),
		SecurityContext:    nonRoot(),
		Containers:         []corev1.Container{container},
	}
	d := p.deployment("cask-operator", pod)
	d.Spec.Replicas = ptr.To(p.OperatorReplicas)
	return d
}

func (p Params) deployment(name string, pod corev1.PodSpec) *appsv1.Deployment {
	return &appsv1.Deployment{
		TypeMeta:   typeMeta("apps/v1", "Deployment"),
		ObjectMeta: p.meta(name),
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1),
			Selector: &metav1.LabelSelector{MatchLabels: labelsOf(name)},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(name)}, Spec: pod},
		},
	}
}

func (p Params) daemonSet(name string, strategy appsv1.DaemonSetUpdateStrategy, pod corev1.PodSpec) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		TypeMeta:   typeMeta("apps/v1", "DaemonSet"),
		ObjectMeta: p.meta(name),
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: labelsOf(name)},
			UpdateStrategy: strategy,
			Template:       corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labelsOf(name)}, Spec: pod},
		},
	}
}

// leaveAtOnce has a pod replaced as soon as its node is not heard of: a failed
// node is dealt with by the operator and the CSI controller, wherever they were.
func leaveAtOnce() []corev1.Toleration {
	return []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0)},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0)},
	}
}

func nonRoot() *corev1.PodSecurityContext {
	return &corev1.PodSecurityContext{
		RunAsNonRoot:   ptr.To(true),
		RunAsUser:      ptr.To[int64](unprivileged),
		RunAsGroup:     ptr.To[int64](unprivileged),
		FSGroup:        ptr.To[int64](unprivileged),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

func confined() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false),
		ReadOnlyRootFilesystem:   ptr.To(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
}

func port(name string, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}
}

func probe(port, path string) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(port)}},
		PeriodSeconds:    10,
		TimeoutSeconds:   5,
		FailureThreshold: 6,
	}
}

// requests are a container's CPU and memory requests and its memory limit, none
// when it is empty.
func requests(cpu string, memory ...string) corev1.ResourceRequirements {
	r := corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory[0]),
	}}
	if len(memory) > 1 {
		r.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory[1])}
	}
	return r
}

func arg(flag string, value any) string { return fmt.Sprintf("--%s=%v", flag, value) }
