// Package resources builds the Kubernetes objects of volumes and pools. Pure:
// objects in, objects out, no client and no clock.
//
// Each object carries the hash of what was asked for in AnnotationHash, so that
// a caller can see whether an existing one is what it should be without
// comparing what the API server filled in.
package resources

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// AnnotationHash holds the hash of the specification an object was made from.
const AnnotationHash = "cask.storage/spec-hash"

// AnnotationKeys on a target's pods has the UID of the Secret whose keys they
// were started with.
const AnnotationKeys = "cask.storage/auth-secret"

// The user and group of target and replica pods, and of the extents.
const unprivileged = 65532

// The names of static objects that pods refer to; deploy/ makes them.
const (
	ServiceAccountTarget  = "cask-target"
	ServiceAccountReplica = "cask-replica"
	ServiceAccountIOC     = "cask-ioc"
	PriorityVolume        = "cask-volume" // target and replica
	PriorityNode          = "cask-node"   // what the volumes of a node depend on
)

// Settings are the operator's choices that hold for every pod it makes.
type Settings struct {
	Namespace   string
	ImagePrefix string // before "target:tag", e.g. "localhost/cask-"
	ImageTag    string
	// Limits of each process.
	ReplicaLimits, TargetLimits, IOCLimits Limits
}

// Limits of one container.
type Limits struct {
	CPU          resource.Quantity // request; there is no limit, a throttled replica would be a slow disk
	Memory       resource.Quantity // request
	MemoryLimit  resource.Quantity
	WorkingShare int64 // percent of MemoryLimit that the process may plan with
}

// Planned is what the process is told it may use, in bytes.
func (l Limits) Planned() int64 { return l.MemoryLimit.Value() * l.WorkingShare / 100 }

// DefaultSettings are what the operator's flags default to.
func DefaultSettings() Settings {
	q := resource.MustParse
	return Settings{
		Namespace:     v1alpha1.Namespace,
		ImagePrefix:   "localhost/cask-",
		ImageTag:      "dev",
		ReplicaLimits: Limits{CPU: q("50m"), Memory: q("256Mi"), MemoryLimit: q("512Mi"), WorkingShare: 75},
		TargetLimits:  Limits{CPU: q("50m"), Memory: q("64Mi"), MemoryLimit: q("256Mi"), WorkingShare: 80},
		IOCLimits:     Limits{CPU: q("20m"), Memory: q("32Mi"), MemoryLimit: q("128Mi"), WorkingShare: 80},
	}
}

func (s Settings) image(name string) string { return s.ImagePrefix + name + ":" + s.ImageTag }

func (l Limits) requirements() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: l.CPU, corev1.ResourceMemory: l.Memory},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: l.MemoryLimit},
	}
}

// ownedBy makes garbage collection remove an object with its owner; a
// cluster-scoped owner may own namespaced objects.
func ownedBy(owner metav1.Object, kind string) []metav1.OwnerReference {
	return []metav1.OwnerReference{{
		APIVersion:         v1alpha1.GroupVersion.String(),
		Kind:               kind,
		Name:               owner.GetName(),
		UID:                owner.GetUID(),
		Controller:         ptr.To(true),
		BlockOwnerDeletion: ptr.To(true),
	}}
}

// hash is the hash of any value that marshals to JSON.
func hash(spec any) string {
	b, err := json.Marshal(spec)
	if err != nil {
		panic(fmt.Sprintf("hash %T: %v", spec, err)) // API types always marshal: a bug
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// unprivilegedPod is the security context of a pod without any right on its
// node.
func unprivilegedPod() *corev1.PodSecurityContext {
	return &corev1.PodSecurityContext{
		RunAsNonRoot:   ptr.To(true),
		RunAsUser:      ptr.To[int64](unprivileged),
		RunAsGroup:     ptr.To[int64](unprivileged),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

func unprivilegedContainer() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false),
		ReadOnlyRootFilesystem:   ptr.To(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
}

// probe asks an HTTP path on the health port.
func probe(path string, seconds, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path, Port: intstr.FromString("health"),
		}},
		PeriodSeconds:    seconds,
		TimeoutSeconds:   3,
		FailureThreshold: failures,
	}
}

func port(name string, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: corev1.ProtocolTCP}
}

func fromField(env, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: env, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path},
	}}
}

// tolerateLost keeps a pod on its node while the node is away: its data is
// there and nowhere else. A drained node is not among it: a drain has to end.
func tolerateLost() []corev1.Toleration {
	return []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeOutOfService, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists},
		{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists},
	}
}
