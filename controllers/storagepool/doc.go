// Package storagepool reconciles StoragePools: it runs an IO container on every
// node of a pool, sums up what they report, and keeps a deleted pool for as long
// as a Volume has a replica in it. It never touches a directory.
//
// Each pass is gather, decide (pure) and apply, as in package volume. The
// entries of status.nodes belong to the IO containers; the operator only removes
// those whose node has left the cluster or the pool. All other status is the
// operator's.
//
// Concurrency: one pass for each StoragePool at a time, by controller-runtime.
package storagepool

// +kubebuilder:rbac:groups=cask.storage,resources=storagepools,verbs=get;list;watch;update;patch
// +kubebuilder:rbac:groups=cask.storage,resources=storagepools/status,verbs=update;patch
// +kubebuilder:rbac:groups=cask.storage,resources=storagepools/finalizers,verbs=update
// +kubebuilder:rbac:groups=cask.storage,resources=volumes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=apps,namespace=cask-system,resources=daemonsets,verbs=get;list;watch;create;update;delete
