package manifests

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// The folders of a node that the CSI pods share with the kubelet.
const (
	kubeletDir = "/var/lib/kubelet"
	attachDir  = kubeletDir + "/plugins/" + v1alpha1.DriverName + "/attach"
	socketDir  = "/csi"
)

func (p Params) csiDriver() client.Object {
	return &storagev1.CSIDriver{
		TypeMeta:   typeMeta("storage.k8s.io/v1", "CSIDriver"),
		ObjectMeta: clusterMeta(v1alpha1.DriverName),
		Spec: storagev1.CSIDriverSpec{
			AttachRequired:       ptr.To(true),
			PodInfoOnMount:       ptr.To(false),
			StorageCapacity:      ptr.To(false),
			SELinuxMount:         ptr.To(false),
			FSGroupPolicy:        ptr.To(storagev1.FileFSGroupPolicy),
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent},
		},
	}
}

func (p Params) csiController() client.Object {
	mount := []corev1.VolumeMount{{Name: "socket", MountPath: socketDir}}
	sidecar := func(name, image string, args ...string) corev1.Container {
		return corev1.Container{
			Name:            name,
			Image:           image,
			Args:            append([]string{arg("csi-address", socketDir+"/csi.sock")}, args...),
			Resources:       requests("10m", "32Mi", "256Mi"),
			SecurityContext: confined(),
			VolumeMounts:    mount,
		}
	}
	controller := corev1.Container{
		Name:            "controller",
		Image:           p.image("csi"),
		Args:            []string{"controller", arg("endpoint", socketDir+"/csi.sock")},
		Ports:           []corev1.ContainerPort{port("health", 9808)},
		Resources:       requests("20m", "32Mi", "256Mi"),
		LivenessProbe:   probe("health", "/healthz"),
		SecurityContext: confined(),
		VolumeMounts:    mount,
	}
	pod := corev1.PodSpec{
		ServiceAccountName: saCSIController,
		PriorityClassName:  priorityControl,
		EnableServiceLinks: ptr.To(false),
		Tolerations:        leaveAtOnce(),
		SecurityContext:    nonRoot(),
		Containers: []corev1.Container{
			controller,
			sidecar("csi-provisioner", p.ProvisionerImage,
				arg("extra-create-metadata", true), arg("feature-gates", "Topology=true"), arg("timeout", "30s"), arg("default-fstype", "ext4")),
			sidecar("csi-attacher", p.AttacherImage, arg("timeout", "30s")),
			sidecar("csi-resizer", p.ResizerImage, arg("timeout", "60s"), arg("handle-volume-inuse-error", false)),
		},
		Volumes: []corev1.Volume{{Name: "socket", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
	}
	d := p.deployment("cask-csi-controller", pod)
	d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
	return d
}

// csiNode is privileged: it mounts file systems where the kubelet and other
// pods must see them, and opens block devices to format them.
func (p Params) csiNode() client.Object {
	pod := corev1.PodSpec{
		ServiceAccountName: saCSINode,
		PriorityClassName:  priorityNode,
		EnableServiceLinks: ptr.To(false),
		Tolerations:        everywhere(),
		Containers: []corev1.Container{{
			Name:            "node",
			Image:           p.image("csi"),
			Args:            []string{"node", arg("kubelet-dir", kubeletDir)},
			Env:             []corev1.EnvVar{nodeName()},
			Ports:           []corev1.ContainerPort{port("health", 9809)},
			Resources:       requests("20m", "32Mi", "256Mi"),
			LivenessProbe:   probe("health", "/healthz"),
			SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "kubelet", MountPath: kubeletDir, MountPropagation: ptr.To(corev1.MountPropagationBidirectional)},
				{Name: "dev", MountPath: "/dev"},
			},
		}},
		Volumes: []corev1.Volume{hostPath("kubelet", kubeletDir, corev1.HostPathDirectory), hostPath("dev", "/dev", corev1.HostPathDirectory)},
	}
	return p.daemonSet("cask-csi-node", appsv1.DaemonSetUpdateStrategy{
		Type:          appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromString("10%"))},
	}, pod)
}

// attach is privileged: it mounts FUSE, configures loop devices and connects
// the kernel's NVMe controllers. The I/O of every mounted volume of the node goes
// through it, so it is updated only by hand, node by node after a drain, gets
// long to end, and has no memory limit: being killed for memory would be an I/O
// error to applications.
func (p Params) attach() client.Object {
	pod := corev1.PodSpec{
		ServiceAccountName:            saAttach,
		AutomountServiceAccountToken:  ptr.To(false),
		PriorityClassName:             priorityNode,
		EnableServiceLinks:            ptr.To(false),
		HostNetwork:                   true, // kernel NVMe connections outlive a pod's network
		Tolerations:                   everywhere(),
		TerminationGracePeriodSeconds: ptr.To[int64](600),
		Containers: []corev1.Container{{
			Name:      "attach",
			Image:     p.image("csi"),
			Args:      []string{"attach", arg("run-dir", attachDir)},
			Resources: requests("50m", "64Mi"),
			// No liveness probe: a restart would end every attachment, and the
			// supervisor inside restarts an agent that dies.
			ReadinessProbe: &corev1.Probe{
				ProbeHandler:     corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/cask-csi", "attachments"}}},
				PeriodSeconds:    30,
				TimeoutSeconds:   10,
				FailureThreshold: 10,
			},
			SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
			VolumeMounts:    []corev1.VolumeMount{{Name: "attach", MountPath: attachDir}, {Name: "dev", MountPath: "/dev"}},
		}},
		Volumes: []corev1.Volume{hostPath("attach", attachDir, corev1.HostPathDirectoryOrCreate), hostPath("dev", "/dev", corev1.HostPathDirectory)},
	}
	return p.daemonSet("cask-attach", appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}, pod)
}

// everywhere: volumes must be usable on every node that pods can get to.
func everywhere() []corev1.Toleration {
	return []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
}

func nodeName() corev1.EnvVar {
	return corev1.EnvVar{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "spec.nodeName"},
	}}
}

func hostPath(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}
