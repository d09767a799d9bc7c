// Package volume reconciles Volumes: it finds a place for the replicas, records
// it, and keeps the pods, Services and PodDisruptionBudget of the volume as
// they should be; when a Volume is deleted it takes the pods down and has the
// extents released before it lets the object go.
//
// Each pass is gather (everything from the API, into a Snapshot), decide (pure:
// Snapshot in, Plan out) and apply. A pass does at most one kind of change to
// the Volume itself and relies on the watch for the next one, so that what was
// decided is recorded before anything is built on it: first the finalizer, then
// the placement, then Services, then their addresses, then Deployments. Writes
// of the Volume carry the resourceVersion that was gathered: a decision taken
// on an old state fails and is taken again.
//
// A replica that is to go is marked (leaving), loses its vote by its target, and
// only then its pod, its Service and its extent; see membership.go. The mark is in
// the object that holds the record, which gives no marked replica a vote: so what
// was seen without a vote once, in however old a copy, never has one again.
//
// The operator's own fields are the finalizer, status.replicas[] id, node, pool,
// zone, address, leaving and releasing, the first status.voters,
// status.nextReplica, status.target.address and zone, and the conditions Placed, PodsReady and Deleting; of what the target writes it
// touches only state and Serving, and only when the target that wrote them is
// gone.
//
// A volume whose nodes prove themselves has a Secret with its keys, made before
// its target and gone with the Volume; see keys.go.
//
// Concurrency: one pass for each Volume at a time, by controller-runtime.
package volume

// +kubebuilder:rbac:groups=cask.storage,resources=volumes,verbs=get;list;watch;update;patch
// +kubebuilder:rbac:groups=cask.storage,resources=volumes/status,verbs=update;patch
// +kubebuilder:rbac:groups=cask.storage,resources=volumes/finalizers,verbs=update
// +kubebuilder:rbac:groups=cask.storage,resources=storagepools,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumes;persistentvolumeclaims,verbs=get
// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,verbs=get,resourceNames=volumes.cask.storage
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",namespace=cask-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=cask-system,resources=secrets,verbs=get;create
// +kubebuilder:rbac:groups="",namespace=cask-system,resources=services,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=apps,namespace=cask-system,resources=deployments,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=policy,namespace=cask-system,resources=poddisruptionbudgets,verbs=get;list;watch;create;update;delete
