package manifests

import (
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

const rbacGroup = "rbac.authorization.k8s.io"

// The service accounts. Those without a role have no business with the API
// server, and their pods get no token.
const (
	saOperator      = "cask-operator"
	saTarget        = "cask-target"
	saReplica       = "cask-replica" // no role
	saIOC           = "cask-ioc"
	saCSIController = "cask-csi-controller"
	saCSINode       = "cask-csi-node"
	saAttach        = "cask-attach" // no role
)

// rbac is every service account with its roles; generated are controller-gen's,
// each named after its service account.
func (p Params) rbac(generated []client.Object) []client.Object {
	var objects []client.Object
	for _, sa := range []string{saOperator, saTarget, saReplica, saIOC, saCSIController, saCSINode, saAttach} {
		objects = append(objects, &corev1.ServiceAccount{TypeMeta: typeMeta("v1", "ServiceAccount"), ObjectMeta: p.meta(sa)})
	}
	roles := append([]client.Object{}, generated...)
	roles = append(roles,
		clusterRole(saIOC, iocRules()),
		clusterRole(saCSIController, csiControllerRules()),
		clusterRole(saCSINode, csiNodeRules()))
	for _, r := range roles {
		if r.GetNamespace() != "" {
			r.SetNamespace(p.Namespace)
		}
		r.SetLabels(labelsOf(r.GetName()))
		objects = append(objects, r, p.binding(r))
	}
	return objects
}

// binding gives a role to the service account of its name.
func (p Params) binding(role client.Object) client.Object {
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: p.Namespace, Name: role.GetName()}}
	if role.GetNamespace() != "" {
		return &rbacv1.RoleBinding{
			TypeMeta: typeMeta(rbacGroup+"/v1", "RoleBinding"), ObjectMeta: p.meta(role.GetName()),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacGroup, Kind: "Role", Name: role.GetName()}, Subjects: subjects,
		}
	}
	return &rbacv1.ClusterRoleBinding{
		TypeMeta: typeMeta(rbacGroup+"/v1", "ClusterRoleBinding"), ObjectMeta: clusterMeta(role.GetName()),
		RoleRef: rbacv1.RoleRef{APIGroup: rbacGroup, Kind: "ClusterRole", Name: role.GetName()}, Subjects: subjects,
	}
}

func clusterRole(name string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{TypeMeta: typeMeta(rbacGroup+"/v1", "ClusterRole"), ObjectMeta: clusterMeta(name), Rules: rules}
}

// rule grants verbs on resources of one API group.
func rule(group string, resources, verbs []string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: verbs}
}

func words(w ...string) []string { return w }

// iocRules: it reports its node's part of its pool, and the extents of deleted
// Volumes as released.
func iocRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("cask.storage", words("volumes", "storagepools"), words("get", "list", "watch")),
		rule("cask.storage", words("volumes/status", "storagepools/status"), words("patch", "update")),
		rule("", words("events"), words("create", "patch")),
	}
}

// csiControllerRules: CreateVolume and the like make and change Volumes; the
// rest is what csi-provisioner, csi-attacher and csi-resizer, in the same pod, document.
func csiControllerRules() []rbacv1.PolicyRule {
	const storage = "storage.k8s.io"
	return []rbacv1.PolicyRule{
		rule("cask.storage", words("volumes"), words("get", "list", "watch", "create", "update", "patch", "delete")),
		rule("cask.storage", words("storagepools"), words("get", "list", "watch")),
		rule("", words("nodes"), words("get", "list", "watch")),
		rule("", words("persistentvolumeclaims"), words("get", "list", "watch", "update")),
		rule("", words("persistentvolumeclaims/status"), words("update", "patch")),
		rule("", words("persistentvolumes"), words("get", "list", "watch", "create", "patch", "delete")),
		rule("", words("events"), words("get", "list", "watch", "create", "update", "patch")),
		rule(storage, words("storageclasses", "csinodes", "volumeattributesclasses"), words("get", "list", "watch")),
		rule(storage, words("volumeattachments"), words("get", "list", "watch", "patch")),
		rule(storage, words("volumeattachments/status"), words("patch")),
	}
}

// csiNodeRules: it says on the Volume how it attached it, and asks whose the
// Volume is before it gives up what could not be written.
func csiNodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("", words("events"), words("create", "patch")),
		rule(v1alpha1.GroupVersion.Group, words("volumes"), words("get")),
	}
}
