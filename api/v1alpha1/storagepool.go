package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StoragePoolSpec says where on the nodes Cask may keep data.
type StoragePoolSpec struct {
	// Engine hands out extents: File keeps each as a sparse file.
	// +kubebuilder:validation:Enum=File
	// +kubebuilder:default=File
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the engine of a pool cannot change; make a second pool"
	Engine string `json:"engine,omitempty"`
	// Directory is an absolute path on every selected node.
	// +kubebuilder:validation:Pattern=`^/([^/]+/)*[^/]+$`
	// +kubebuilder:validation:MaxLength=255
	// +kubebuilder:validation:XValidation:rule="!self.split('/').exists(p, p == '.' || p == '..')",message="the directory is a path without . and .."
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the directory of a pool cannot change; make a second pool"
	Directory string `json:"directory"`
	// NodeSelector picks the nodes; all nodes when absent.
	// +optional
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// ReservePercent of the directory's file system is never promised to
	// volumes.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=90
	// +kubebuilder:default=10
	// +optional
	ReservePercent *int32 `json:"reservePercent,omitempty"`
	// OvercommitPercent is how much may be promised of what is not
	// reserved; 100 promises no more than there is.
	// +kubebuilder:validation:Minimum=100
	// +kubebuilder:validation:Maximum=10000
	// +kubebuilder:default=100
	// +optional
	OvercommitPercent *int32 `json:"overcommitPercent,omitempty"`
}

// PoolNode is one node's part of a pool, reported by its IO container with
// server-side apply as field manager ioc-<node>. The operator only removes
// entries, those of nodes that left the cluster or the pool.
type PoolNode struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	// PoolID is written into the directory when it is first used; a
	// directory with another, or none later on, is refused.
	PoolID string `json:"poolID,omitempty"`
	// Capacity and Free are the file system's.
	Capacity resource.Quantity `json:"capacity,omitempty"`
	Free     resource.Quantity `json:"free,omitempty"`
	// Promised is the sum of the extents' full sizes.
	Promised resource.Quantity `json:"promised,omitempty"`
	// Available is what can still be promised here, by the pool's reserve
	// and overcommit and what others keep on the file system. The operator
	// places no more than that.
	Available resource.Quantity `json:"available,omitempty"`
	Extents   int32             `json:"extents,omitempty"`
	Reason    string            `json:"reason,omitempty"`
	Message   string            `json:"message,omitempty"`
}

// StoragePoolStatus is what the nodes report.
type StoragePoolStatus struct {
	// +listType=map
	// +listMapKey=name
	// +optional
	Nodes []PoolNode `json:"nodes,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ReadyNodes is "ready/selected" for people.
	ReadyNodes string             `json:"readyNodes,omitempty"`
	Capacity   *resource.Quantity `json:"capacity,omitempty"`
	// Available is what can still be promised, over all ready nodes.
	Available *resource.Quantity `json:"available,omitempty"`
	Replicas  int32              `json:"replicas,omitempty"`
}

// The condition types of a StoragePool, written by the operator.
const (
	ConditionReady = "Ready" // every selected node is ready
)

// StoragePool is a set of directories on nodes that replicas are kept in.
// +kubebuilder:object:root=true
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')",message="a StoragePool's name starts with a letter, has letters, digits and '-' only, and at most 50 of them: the names of its pods are made from it"
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=csp
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.status.readyNodes`
// +kubebuilder:printcolumn:name="Capacity",type=string,JSONPath=`.status.capacity`
// +kubebuilder:printcolumn:name="Available",type=string,JSONPath=`.status.available`
// +kubebuilder:printcolumn:name="Replicas",type=integer,JSONPath=`.status.replicas`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Directory",type=string,priority=1,JSONPath=`.spec.directory`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type StoragePool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   StoragePoolSpec   `json:"spec"`
	Status StoragePoolStatus `json:"status,omitempty"`
}

// StoragePoolList is a list of StoragePools.
// +kubebuilder:object:root=true
type StoragePoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []StoragePool `json:"items"`
}
