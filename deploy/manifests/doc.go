// Package manifests builds what an installation of Cask consists of: the
// objects of deploy/cask-operator.yaml and of the Helm chart, from one source.
// Pure; the program in deploy/generate writes the files. CRDs and the roles of
// the operator and the target come from controller-gen, by markers beside the
// types and the code; the other roles are written down here, each with its
// reasons.
package manifests

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// Params are what an installation can choose.
type Params struct {
	Namespace        string
	ImagePrefix      string // before "operator:tag", e.g. "localhost/cask-"
	ImageTag         string
	ProvisionerImage string
	AttacherImage    string
	ResizerImage     string
	NodeFailureGrace string // Go duration; 0s never takes a node out of service
	OperatorReplicas int32
}

// Defaults install locally built images.
func Defaults() Params {
	return Params{
		Namespace:        v1alpha1.Namespace,
		ImagePrefix:      "localhost/cask-",
		ImageTag:         "dev",
		ProvisionerImage: "localhost/csi-provisioner:dev",
		AttacherImage:    "localhost/csi-attacher:dev",
		ResizerImage:     "localhost/csi-resizer:dev",
		NodeFailureGrace: "10s",
		OperatorReplicas: 1,
	}
}

// Generated is what controller-gen made: CRDs and roles, without their
// TypeMeta's meaning changed. Namespaces in it are replaced.
type Generated struct {
	CRDs, Roles []client.Object
}

// Group is one file of the chart.
type Group struct {
	Name    string
	Objects []client.Object
}

// NamespaceObject is where everything goes; a chart leaves it to Helm. Pods with
// host access live here, so its pod security level says so.
func (p Params) NamespaceObject() *corev1.Namespace {
	return &corev1.Namespace{
		TypeMeta: typeMeta("v1", "Namespace"),
		ObjectMeta: metav1.ObjectMeta{Name: p.Namespace, Labels: map[string]string{
			"pod-security.kubernetes.io/enforce": "privileged",
		}},
	}
}

// Groups are all objects of an installation but its namespace, in the order to
// apply them.
func (p Params) Groups(g Generated) []Group {
	return []Group{
		{"crds", g.CRDs},
		{"rbac", p.rbac(g.Roles)},
		{"operator", append(p.priorities(), p.operator())},
		{"csi", []client.Object{p.csiDriver(), p.csiController(), p.csiNode(), p.attach()}},
	}
}

func typeMeta(version, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: kind}
}

func (p Params) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: p.Namespace, Name: name, Labels: labelsOf(name)}
}

func clusterMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: labelsOf(name)}
}

func labelsOf(name string) map[string]string {
	return map[string]string{"app.kubernetes.io/name": "cask", "app.kubernetes.io/component": name}
}

func (p Params) image(name string) string { return p.ImagePrefix + name + ":" + p.ImageTag }
