// Package deploy holds what installs Cask: the manifest cask-operator.yaml, and
// crd and rbac, which controller-gen makes. All of it is generated.
package deploy

//go:generate go tool controller-gen rbac:roleName=cask-operator paths=../controllers/... paths=../cmd/operator output:rbac:dir=rbac/operator
//go:generate go tool controller-gen rbac:roleName=cask-target paths=../authority/kube output:rbac:dir=rbac/target
//go:generate go run ./generate -root ..
