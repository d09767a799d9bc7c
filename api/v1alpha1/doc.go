// Package v1alpha1 holds the types of the API group cask.storage: StoragePool
// and Volume. It imports apimachinery only.
//
// +kubebuilder:object:generate=true
// +groupName=cask.storage
package v1alpha1

//go:generate go tool controller-gen object paths=.
//go:generate go tool controller-gen crd paths=. output:crd:dir=../../deploy/crd
