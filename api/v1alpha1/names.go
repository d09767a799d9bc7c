package v1alpha1

// DriverName is the CSI driver's.
const DriverName = "csi.cask.storage"

// Namespace is where Cask's own pods run unless told otherwise.
const Namespace = "cask-system"

// Labels on what belongs to a Volume or a StoragePool.
const (
	LabelVolume  = "cask.storage/volume"  // name of the Volume
	LabelRole    = "cask.storage/role"    // RoleTarget, RoleReplica or RoleIOC
	LabelReplica = "cask.storage/replica" // ID of the replica in its Volume
	LabelPool    = "cask.storage/pool"    // name of the StoragePool
)

// Values of LabelRole.
const (
	RoleTarget  = "target"
	RoleReplica = "replica"
	RoleIOC     = "ioc"
)

// Finalizers. Each holds its object until the data below it is accounted for.
const (
	FinalizerData     = "cask.storage/data"     // on Volumes: until every extent is released
	FinalizerReplicas = "cask.storage/replicas" // on StoragePools: until no Volume has a replica there
)

// AnnotationReplace on a Volume names replicas, separated by commas, that are to
// be given up and made anew on another node: for disks that broke without their
// node leaving the cluster. IDs are never used again, so it may stay.
const AnnotationReplace = "cask.storage/replace-replica"

// AnnotationVerify on a Volume asks for a comparison of its replicas. Any value that
// is not status.verification.request does, once.
const AnnotationVerify = "cask.storage/verify"

// Annotations of the handling of failed nodes.
const (
	// AnnotationFenced on a Volume keeps the attachment that was withdrawn
	// from a failed node: it is given back when the node returns before
	// another had the volume. Whoever changes spec.attachment otherwise
	// removes it in the same update.
	AnnotationFenced = "cask.storage/fenced-attachment"
	// AnnotationTainted on a Node marks its out-of-service taint as ours,
	// to be removed by us.
	AnnotationTainted = "cask.storage/out-of-service"
)

// Ports of a volume's pods and Services.
const (
	PortNVMe        = 4420 // target: NVMe/TCP, or
	PortISCSI       = 3260 // iSCSI, see Volume.FrontendPort
	PortReplication = 4500 // replica
	PortHealth      = 9500 // both: /healthz, /readyz, /metrics
)
