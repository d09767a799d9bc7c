// Package kube keeps a volume's record in its Volume object.
package kube

// A role cannot name one volume's object without being made for that volume, and
// an operator that may make roles and bindings is worse than targets that can
// write each other's status: so all targets share one service account.
//
// +kubebuilder:rbac:groups=cask.storage,resources=volumes,verbs=get;list;watch
// +kubebuilder:rbac:groups=cask.storage,resources=volumes/status,verbs=update
// +kubebuilder:rbac:groups="",resources=events,verbs=create
