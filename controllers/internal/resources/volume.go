package resources

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/internal/members"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// TargetName names a volume's target Deployment and Service.
func TargetName(volume string) string { return volume + "-ctrl" }

// ReplicaName names a replica's Deployment and Service.
func ReplicaName(volume, id string) string { return volume + "-rep-" + id }

// VolumeLabels select everything of a volume; more narrow it down to a role
// and, for RoleReplica, one replica.
func VolumeLabels(volume string, more ...string) map[string]string {
	l := map[string]string{v1alpha1.LabelVolume: volume}
	for i, key := range []string{v1alpha1.LabelRole, v1alpha1.LabelReplica} {
		if i < len(more) {
			l[key] = more[i]
		}
	}
	return l
}

// nameLabels are the recommended labels for people and dashboards.
func nameLabels(labels map[string]string, component string) map[string]string {
	l := maps.Clone(labels)
	l["app.kubernetes.io/name"] = "cask"
	l["app.kubernetes.io/component"] = component
	return l
}

func (s Settings) meta(v *v1alpha1.Volume, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:       s.Namespace,
		Name:            name,
		Labels:          nameLabels(labels, labels[v1alpha1.LabelRole]),
		OwnerReferences: ownedBy(v, "Volume"),
	}
}

// TargetService is the address of the volume, the same for all its targets.
// Only a target that serves is behind it.
func (s Settings) TargetService(v *v1alpha1.Volume) *corev1.Service {
	labels := VolumeLabels(v.Name, v1alpha1.RoleTarget)
	return &corev1.Service{
		ObjectMeta: s.meta(v, TargetName(v.Name), labels),
		Spec: corev1.ServiceSpec{
			Selector: labels,
			Ports:    []corev1.ServicePort{servicePort(frontendName(v), int32(v.FrontendPort())), servicePort("health", v1alpha1.PortHealth)},
		},
	}
}

// frontendName is the name of the frontend's port.
func frontendName(v *v1alpha1.Volume) string {
	if v.Spec.Frontend == v1alpha1.FrontendISCSI {
		return "iscsi"
	}
	return "nvme-tcp"
}

// ReplicaService is the address of one replica. A replica that is not ready
// is reachable too: its target is what makes it ready.
func (s Settings) ReplicaService(v *v1alpha1.Volume, id string) *corev1.Service {
	labels := VolumeLabels(v.Name, v1alpha1.RoleReplica, id)
	return &corev1.Service{
		ObjectMeta: s.meta(v, ReplicaName(v.Name, id), labels),
		Spec: corev1.ServiceSpec{
			Selector:                 labels,
			PublishNotReadyAddresses: true,
			Ports:                    []corev1.ServicePort{servicePort("replication", v1alpha1.PortReplication), servicePort("health", v1alpha1.PortHealth)},
		},
	}
}

func servicePort(name string, number int32) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Port: number, TargetPort: intstr.FromString(name), Protocol: corev1.ProtocolTCP}
}

// AuthSecret holds the keys of a volume whose nodes prove themselves. It never
// changes: who has the volume has read it.
func (s Settings) AuthSecret(v *v1alpha1.Volume, keys dhchap.Secrets) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: s.meta(v, v1alpha1.AuthSecretName(v.Name), VolumeLabels(v.Name)),
		Immutable:  ptr.To(true),
		Type:       corev1.SecretTypeOpaque,
		StringData: map[string]string{v1alpha1.KeyDHCHAPHost: keys.Host, v1alpha1.KeyDHCHAPController: keys.Controller},
	}
}

// Target is the Deployment of the volume's one target. keys is the Secret of
// AuthSecret, empty without one: another Secret is another target. The nodes it
// prefers are not part of its hash: a target is not restarted to be moved.
func (s Settings) Target(v *v1alpha1.Volume, keys types.UID) *appsv1.Deployment {
	labels := VolumeLabels(v.Name, v1alpha1.RoleTarget)
	pod := corev1.PodSpec{
		ServiceAccountName:            ServiceAccountTarget,
		PriorityClassName:             PriorityVolume,
		EnableServiceLinks:            ptr.To(false),
		DNSPolicy:                     corev1.DNSDefault,
		TerminationGracePeriodSeconds: ptr.To[int64](10),
		SecurityContext:               unprivilegedPod(),
		// Eviction at once: the next target fences this one, so there is
		// nothing to wait for when its node is not heard of.
		Tolerations: []corev1.Toleration{
			{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0)},
			{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](0)},
		},
		Containers: []corev1.Container{s.targetContainer(v)},
		Volumes:    authVolumes(v),
	}
	if len(pod.Volumes) > 0 {
		pod.SecurityContext.FSGroup = ptr.To[int64](unprivileged) // may read them
	}
	d := s.deployment(v, TargetName(v.Name), labels, pod)
	if keys != "" {
		d.Spec.Template.Annotations = map[string]string{AnnotationKeys: string(keys)}
		d.Annotations[AnnotationHash] = hash(d.Spec)
	}
	d.Spec.Template.Spec.Affinity = targetAffinity(v)
	return d
}

func (s Settings) targetContainer(v *v1alpha1.Volume) corev1.Container {
	args := []string{
		"--volume=" + v.Name,
		"--authority=kube",
		"--durability=" + v.Spec.Durability,
		fmt.Sprintf("--listen=:%d", v.FrontendPort()),
		fmt.Sprintf("--health=:%d", v1alpha1.PortHealth),
	}
	if v.Spec.Frontend == v1alpha1.FrontendISCSI { // nvme is the default: targets from before this setting stay
		args = append(args, "--frontend=iscsi")
	}
	var mounts []corev1.VolumeMount
	if authSecret(v) != "" {
		args = append(args, "--auth="+authPath)
		mounts = append(mounts, corev1.VolumeMount{Name: authVolume, MountPath: authPath, ReadOnly: true})
	}
	return corev1.Container{
		Name:  "target",
		Image: s.image("target"),
		Args:  args,
		Env: []corev1.EnvVar{
			fromField("POD_NAME", "metadata.name"),
			fromField("NODE_NAME", "spec.nodeName"),
			{Name: "GOMEMLIMIT", Value: strconv.FormatInt(s.TargetLimits.Planned(), 10)},
		},
		Ports:           []corev1.ContainerPort{port(frontendName(v), int32(v.FrontendPort())), port("health", v1alpha1.PortHealth)},
		Resources:       s.TargetLimits.requirements(),
		LivenessProbe:   probe("/healthz", 10, 6),
		ReadinessProbe:  probe("/readyz", 2, 2),
		SecurityContext: unprivilegedContainer(),
		VolumeMounts:    mounts,
	}
}

// Where a target finds what initiators have to prove.
const (
	authVolume = "auth"
	authPath   = "/auth"
)

// authSecret names the Secret with what hosts have to prove, if anything.
func authSecret(v *v1alpha1.Volume) string {
	if v.NodesAuthenticate() {
		return v1alpha1.AuthSecretName(v.Name)
	}
	return v.Spec.AuthenticationSecret
}

// authVolumes mounts the Secret, for the process's group only.
func authVolumes(v *v1alpha1.Volume) []corev1.Volume {
	name := authSecret(v)
	if name == "" {
		return nil
	}
	return []corev1.Volume{{Name: authVolume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: name, DefaultMode: ptr.To[int32](0o440)}}}}
}

// targetAffinity prefers the consumer's node, then nodes with a replica.
func targetAffinity(v *v1alpha1.Volume) *corev1.Affinity {
	var terms []corev1.PreferredSchedulingTerm
	prefer := func(weight int32, nodes ...string) {
		for _, on := range onNodes(nodes...) {
			terms = append(terms, corev1.PreferredSchedulingTerm{Weight: weight, Preference: on})
		}
	}
	if node := consumer(v); node != "" {
		prefer(100, node)
	}
	if nodes := replicaNodes(v); len(nodes) > 0 {
		prefer(10, nodes...)
	}
	if len(terms) == 0 {
		return nil
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: terms}}
}

func pinned(node string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: onNodes(node)},
	}}
}

func consumer(v *v1alpha1.Volume) string {
	if v.Spec.Attachment != nil {
		return v.Spec.Attachment.Node
	}
	return v.Spec.PreferredNode
}

func replicaNodes(v *v1alpha1.Volume) []string {
	var nodes []string
	for _, r := range v.Status.Replicas {
		if r.Leaving == "" {
			nodes = append(nodes, r.Node)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// onNodes matches nodes by name, which the hostname label need not be.
func onNodes(nodes ...string) []corev1.NodeSelectorTerm {
	var terms []corev1.NodeSelectorTerm
	for _, n := range nodes { // one name in each: matchFields takes no more
		terms = append(terms, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{n}},
		}})
	}
	return terms
}

// Replica is the Deployment of one replica on its node, from the pool's
// directory there.
func (s Settings) Replica(v *v1alpha1.Volume, r v1alpha1.VolumeReplica, directory string) *appsv1.Deployment {
	labels := VolumeLabels(v.Name, v1alpha1.RoleReplica, r.ID)
	pod := corev1.PodSpec{
		ServiceAccountName:            ServiceAccountReplica,
		AutomountServiceAccountToken:  ptr.To(false),
		PriorityClassName:             PriorityVolume,
		EnableServiceLinks:            ptr.To(false),
		DNSPolicy:                     corev1.DNSDefault,
		TerminationGracePeriodSeconds: ptr.To[int64](30),
		Affinity:                      pinned(r.Node),
		Tolerations:                   tolerateLost(),
		SecurityContext:               unprivilegedPod(),
		Containers:                    []corev1.Container{s.replicaContainer(v, r)},
		Volumes: []corev1.Volume{
			// Directory, not DirectoryOrCreate: where the IO container has
			// not been, nothing may be made up.
			{Name: "pool", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: directory, Type: ptr.To(corev1.HostPathDirectory)}}},
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(s.ReplicaLimits.MemoryLimit)}}},
		},
	}
	d := s.deployment(v, ReplicaName(v.Name, r.ID), labels, pod)
	d.Spec.MinReadySeconds = 5 // available only when its target has had time to notice
	return d
}

func (s Settings) replicaContainer(v *v1alpha1.Volume, r v1alpha1.VolumeReplica) corev1.Container {
	return corev1.Container{
		Name:  "replica",
		Image: s.image("replica"),
		Args: []string{
			"--volume=" + v.Name,
			"--replica=" + r.ID,
			fmt.Sprintf("--listen=:%d", v1alpha1.PortReplication),
			"--ioc=/pool/ioc.sock",
			"--pool-dir=/pool",
			fmt.Sprintf("--memory=%d", s.ReplicaLimits.Planned()),
			"--compression=" + v.Spec.Compression,
			fmt.Sprintf("--block-size=%d", v.Spec.RecordBytes()),
			fmt.Sprintf("--health=:%d", v1alpha1.PortHealth),
		},
		Ports:           []corev1.ContainerPort{port("replication", v1alpha1.PortReplication), port("health", v1alpha1.PortHealth)},
		Resources:       s.ReplicaLimits.requirements(),
		LivenessProbe:   probe("/healthz", 10, 6),
		ReadinessProbe:  probe("/readyz", 5, 2),
		SecurityContext: unprivilegedContainer(),
		VolumeMounts:    []corev1.VolumeMount{{Name: "pool", MountPath: "/pool"}, {Name: "tmp", MountPath: "/tmp"}},
	}
}

// deployment runs exactly one pod, never two at once.
func (s Settings) deployment(v *v1alpha1.Volume, name string, labels map[string]string, pod corev1.PodSpec) *appsv1.Deployment {
	d := &appsv1.Deployment{
		ObjectMeta: s.meta(v, name, labels),
		Spec: appsv1.DeploymentSpec{
			Replicas:             ptr.To[int32](1),
			RevisionHistoryLimit: ptr.To[int32](1),
			Strategy:             appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector:             &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: nameLabels(labels, labels[v1alpha1.LabelRole])},
				Spec:       pod,
			},
		},
	}
	d.Annotations = map[string]string{AnnotationHash: hash(d.Spec)}
	return d
}

// Budget lets as many replicas be evicted as the volume can lose now without
// a stall: a replica that is not in sync is lost already.
func (s Settings) Budget(v *v1alpha1.Volume) *policyv1.PodDisruptionBudget {
	labels := VolumeLabels(v.Name, v1alpha1.RoleReplica)
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: s.meta(v, v.Name, labels),
		Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable:             ptr.To(intstr.FromInt32(spare(v))),
			Selector:                   &metav1.LabelSelector{MatchLabels: labels},
			UnhealthyPodEvictionPolicy: ptr.To(policyv1.AlwaysAllow),
		},
	}
	b.Annotations = map[string]string{AnnotationHash: hash(b.Spec)}
	return b
}

// spare lets one replica at a time be evicted when writes then go on. While no
// target serves nobody knows.
func spare(v *v1alpha1.Volume) int32 {
	if v.Status.State != v1alpha1.VolumeHealthy && v.Status.State != v1alpha1.VolumeDegraded {
		return 0
	}
	return int32(min(1, max(0, members.Spare(v)))) //nolint:gosec // 0 or 1
}
