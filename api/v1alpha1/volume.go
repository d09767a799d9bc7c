package v1alpha1

import (
	"cmp"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// VolumeSpec is what the user declared, through a StorageClass and a PVC.
// +kubebuilder:validation:XValidation:rule="!(has(self.pool) && has(self.poolSelector))",message="set pool or poolSelector, not both"
// +kubebuilder:validation:XValidation:rule="self.durability == oldSelf.durability && self.compression == oldSelf.compression && self.recordSize == oldSelf.recordSize",message="durability, compression and recordSize cannot change yet"
// +kubebuilder:validation:XValidation:rule="quantity(string(self.size)).compareTo(quantity(string(oldSelf.size))) >= 0",message="a volume can grow, not shrink: copy what is in it to a smaller one"
// +kubebuilder:validation:XValidation:rule="!has(self.zones) || size(self.zones) == 0 || self.consistency == 'quorum'",message="zones are for consistency quorum: one and all count replicas wherever they are"
// +kubebuilder:validation:XValidation:rule="!has(self.minVoters) || self.minVoters <= self.replicas",message="minVoters must not be more than replicas"
// +kubebuilder:validation:XValidation:rule="self.frontend == oldSelf.frontend",message="frontend cannot change"
// +kubebuilder:validation:XValidation:rule="(has(self.authentication) ? self.authentication : 'none') == (has(oldSelf.authentication) ? oldSelf.authentication : 'none')",message="authentication cannot change: copy what is in the volume to one of another StorageClass"
// +kubebuilder:validation:XValidation:rule="!has(self.authentication) || self.authentication == 'none' || self.frontend == 'nvme'",message="authentication of nodes is for frontend nvme"
// +kubebuilder:validation:XValidation:rule="self.frontend == 'iscsi' || !has(self.initiators) && !has(self.authenticationSecret)",message="initiators and authenticationSecret are for frontend iscsi: hosts of frontend nvme are those of attachments"
type VolumeSpec struct {
	// Size is what the application sees, in bytes; a multiple of 1Mi. It can
	// grow at any time.
	// (CEL calls some sizes of hundreds of Ti no integers; those it lets pass.)
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('1Mi')) >= 0 && (quantity(string(self)).isInteger() ? quantity(string(self)).asInteger() % 1048576 == 0 : quantity(string(self)).compareTo(quantity('100Ti')) > 0)",message="size must be a positive multiple of 1Mi"
	Size resource.Quantity `json:"size"`
	// Replicas is the number of copies, each on a host of its own. It can
	// change at any time: a copy more is rebuilt before it counts, one less
	// has lost its vote before its pod and its extent go.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=7
	// +kubebuilder:default=3
	Replicas int32 `json:"replicas,omitempty"`
	// Consistency is how many replicas have a write before it is
	// acknowledged: one, a quorum (more than half), or all. What one loses
	// with that replica is told in status.exposed.
	// +kubebuilder:validation:Enum=one;quorum;all
	// +kubebuilder:default=quorum
	Consistency string `json:"consistency,omitempty"`
	// Zones says which zones (topology.kubernetes.io/zone of the nodes) the
	// quorum is of: local is more than half of the replicas in the target's
	// zone, each is more than half in each zone. Empty counts all replicas.
	// +optional
	// +kubebuilder:validation:Enum="";local;each
	Zones string `json:"zones,omitempty"`
	// MinVoters is the least number of replicas that may count: below it
	// I/O waits rather than go on without the replicas that failed. More
	// than half of Replicas when absent.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=7
	MinVoters *int32 `json:"minVoters,omitempty"`
	// ReplaceAfter is how long the node of a replica may be lost before the
	// replica is given up and a new one made on another node. When absent that
	// happens only when the node is removed from the cluster.
	// +optional
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s')",message="replaceAfter must be at least 1s; leave it out to wait for ever"
	ReplaceAfter *metav1.Duration `json:"replaceAfter,omitempty"`
	// Durability is when a write is on stable storage: at the next flush
	// (as with any disk that has a write cache), or always.
	// +kubebuilder:validation:Enum=flush;always
	// +kubebuilder:default=flush
	Durability string `json:"durability,omitempty"`
	// Compression of the data on the replicas.
	// +kubebuilder:validation:Enum=lz4;zstd;"off"
	// +kubebuilder:default=lz4
	Compression string `json:"compression,omitempty"`
	// RecordSize is what the replicas read, check, compress and write at
	// once; a smaller write has them read the rest of it.
	// +kubebuilder:validation:Enum="4Ki";"8Ki";"16Ki";"32Ki";"64Ki";"128Ki"
	// +kubebuilder:default="8Ki"
	RecordSize string `json:"recordSize,omitempty"`
	// Frontend is what the volume's target speaks: nvme (NVMe/TCP) or iscsi.
	// Nodes attach both. A volume with Initiators is for these, not for pods.
	// +kubebuilder:validation:Enum=nvme;iscsi
	// +kubebuilder:default=nvme
	Frontend string `json:"frontend,omitempty"`
	// Initiators are the iSCSI names, outside of pods, that may log in while no
	// node has the volume. A name proves nothing: set AuthenticationSecret too.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=223
	// +kubebuilder:validation:items:Pattern=`^(iqn|eui|naa)\.[-.:a-z0-9]+$`
	Initiators []string `json:"initiators,omitempty"`
	// AuthenticationSecret names a Secret in the namespace of the volume's
	// pods with what initiators have to prove (CHAP), under the keys of a
	// Secret of type kubernetes.io/iscsi-chap: node.session.auth.username and
	// .password, and with _in behind them what the target proves to them.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	AuthenticationSecret string `json:"authenticationSecret,omitempty"`
	// Authentication is what a node has to prove to the volume's target, beside
	// its name: nothing (none, as when absent), or that it has the keys of the
	// volume (nodes, DH-HMAC-CHAP both ways). The operator makes these, in the
	// Secret <volume>-auth in the namespace of the volume's pods.
	// +optional
	// +kubebuilder:validation:Enum=none;nodes
	Authentication string `json:"authentication,omitempty"`
	// Pool names the StoragePool of the replicas; any pool when empty.
	// +optional
	// +kubebuilder:validation:MaxLength=50
	Pool string `json:"pool,omitempty"`
	// PoolSelector picks StoragePools by label; any pool when absent.
	// +optional
	PoolSelector *metav1.LabelSelector `json:"poolSelector,omitempty"`
	// PreferredNode is where the consumer was first scheduled: a replica
	// and the target go there when possible.
	// +optional
	PreferredNode string `json:"preferredNode,omitempty"`
	// Claim is the PersistentVolumeClaim that the volume was made for, as
	// <namespace>/<name>; empty when nobody said.
	// +optional
	// +kubebuilder:validation:MaxLength=317
	Claim string `json:"claim,omitempty"`
	// Attachment is the one node that may use the volume now, set by the
	// CSI controller. The target admits no other host.
	// +optional
	Attachment *VolumeAttachment `json:"attachment,omitempty"`
}

// VolumeAttachment gives a volume to one node.
type VolumeAttachment struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[^:]+$`
	Node string `json:"node"`
	// ID is new for each attachment: a host that comes back with an older
	// one is refused.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[^:]+$`
	ID       string `json:"id"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// The replica states, as the target sees them.
const (
	ReplicaInSync     = "InSync"     // has every operation, counts
	ReplicaCatchingUp = "CatchingUp" // receives the operations it missed
	ReplicaRebuilding = "Rebuilding" // receives the blocks it missed; does not count
	ReplicaOffline    = "Offline"    // not connected
	ReplicaFailed     = "Failed"     // refused or broken; see reason
	ReplicaUnknown    = "Unknown"    // no target has spoken to it yet
)

// VolumeReplica is one copy of the volume. ID, Node, Pool, Zone, Address,
// Leaving and Releasing are the operator's, State, Reason and Message the
// target's, Released the IO container's.
type VolumeReplica struct {
	// ID is unique within the volume and never used again: r0, r1, …
	ID   string `json:"id"`
	Node string `json:"node"`
	Pool string `json:"pool"`
	// Zone is the node's topology.kubernetes.io/zone.
	Zone string `json:"zone,omitempty"`
	// Address is host:port of the replica's Service.
	Address string `json:"address,omitempty"`
	// State, Reason and Message are written by the target.
	State   string `json:"state,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Leaving says why this replica is to leave the volume; empty when it
	// stays. The target takes its vote away; the record never gives it one
	// again while this is set. It is taken back only while it still votes.
	// +optional
	Leaving string `json:"leaving,omitempty"`
	// Releasing says that a replica which is leaving has no vote and no pod
	// any more: its extent may go.
	// +optional
	Releasing bool `json:"releasing,omitempty"`
	// Released says that the extent is gone for good. The IO container of
	// Node and Pool deletes the extent, and then sets this, only while this
	// entry names its own node and pool and either the Volume has a
	// deletionTimestamp and its condition Deleting is True with reason
	// ReleasingExtents (see Volume.Releasing), or the entry is Releasing and
	// not among the voters. By then the operator has seen the replica's last
	// pod gone. Deleting what is not there counts as deleted. When every
	// entry is released, or its Node is no longer in the cluster, the
	// operator drops the finalizer. No other event, not the absence of the
	// Volume either, ever makes anyone delete an extent.
	// +optional
	Released bool `json:"released,omitempty"`
}

// VolumeTarget is where the volume is served, written by the target in the
// same update that acquires its epoch.
type VolumeTarget struct {
	Pod  string `json:"pod,omitempty"`
	Node string `json:"node,omitempty"`
	// Zone of Node; written by the operator.
	Zone string `json:"zone,omitempty"`
	// Address is host:port of the frontend, a Service that outlives the pod;
	// written by the operator.
	Address string `json:"address,omitempty"`
	// Attachment is the ID of the one attachment this target may have hosts
	// of; those of any other have been cut off. It is published before the
	// first host of an attachment is admitted, and cleared only after the
	// last was cut off: when empty, this target serves nobody.
	Attachment string `json:"attachment,omitempty"`
}

// The volume states.
const (
	VolumePending   = "Pending"   // not placed, or never served
	VolumeHealthy   = "Healthy"   // serving, every replica in sync
	VolumeDegraded  = "Degraded"  // serving, not every replica in sync
	VolumeSuspended = "Suspended" // I/O waits for replicas
	VolumeDeleting  = "Deleting"
)

// VolumeStatus is the truth about the volume. Epoch, Holder, Initialized,
// LostEpoch, Voters, Level, VoterZones, LocalZone and Refused are the
// replication's own record: they are changed by compare-and-swap only, and
// editing them by hand loses data.
type VolumeStatus struct {
	// Epoch is the fencing generation of the newest target.
	// +kubebuilder:validation:Minimum=0
	Epoch int64 `json:"epoch,omitempty"`
	// Holder is the instance that acquired the epoch.
	Holder string `json:"holder,omitempty"`
	// Initialized is set before the first write is accepted: from then on
	// an empty replica counts for nothing.
	Initialized bool `json:"initialized,omitempty"`
	// LostEpoch is the epoch of the last recovery that may have lost
	// acknowledged writes that were not flushed. What had the volume open
	// before gets I/O errors. 0: there was none.
	// +kubebuilder:validation:Minimum=0
	// +optional
	LostEpoch int64 `json:"lostEpoch,omitempty"`
	// Voters are the replicas that count.
	// +optional
	Voters []string `json:"voters,omitempty"`
	// Reservations are those that hosts asked to survive a restart of the
	// target, in the form of its frontend. Only the Holder writes them.
	// +optional
	// +kubebuilder:validation:MaxLength=65536
	Reservations string `json:"reservations,omitempty"`
	// Level is what acknowledgements are counted by now: one, quorum, all,
	// local or each.
	// +optional
	Level string `json:"level,omitempty"`
	// VoterZones are the zones that the voters are counted in.
	// +optional
	VoterZones map[string]string `json:"voterZones,omitempty"`
	// LocalZone is the zone whose voters count at the level local.
	// +optional
	LocalZone string `json:"localZone,omitempty"`
	// Refused says why no target goes by this record any more: replicas or a
	// running target know that it is not the newest. Put the right one back,
	// then remove this.
	// +optional
	Refused string `json:"refused,omitempty"`
	// NextReplica numbers the next replica's ID.
	// +optional
	NextReplica int32 `json:"nextReplica,omitempty"`
	// State sums the conditions up.
	State string `json:"state,omitempty"`
	// InSync is "in sync/replicas" for people.
	InSync string `json:"inSync,omitempty"`
	// Voting is "voters in sync/voters" for people.
	Voting string `json:"voting,omitempty"`
	// Exposed is the order of magnitude of the acknowledged operations that
	// one replica alone had at some time during the last seconds: what its
	// loss would have cost.
	// +optional
	Exposed int64 `json:"exposed,omitempty"`
	// Size that hosts may use now; spec.size once every replica has room for
	// that.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
	// Change of level or voters that is under way.
	// +optional
	Change string `json:"change,omitempty"`
	// +optional
	Target VolumeTarget `json:"target,omitempty"`
	// +listType=map
	// +listMapKey=id
	// +optional
	Replicas []VolumeReplica `json:"replicas,omitempty"`
	// Verification is the last comparison of the replicas.
	// +optional
	Verification *VolumeVerification `json:"verification,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// VolumeVerification is what a comparison of the replicas came to.
type VolumeVerification struct {
	// Request is the last value of the annotation cask.storage/verify that was
	// answered.
	// +optional
	Request string `json:"request,omitempty"`
	// Ended is when it ended.
	Ended metav1.Time `json:"ended"`
	// Failed says why it came to no end.
	// +optional
	Failed string `json:"failed,omitempty"`
	// Seq is the operation at which the replicas were compared.
	Seq int64 `json:"seq"`
	// Replicas that were compared.
	// +optional
	Replicas []string `json:"replicas,omitempty"`
	// HeldBytes is what the content takes on all of them.
	HeldBytes int64 `json:"heldBytes"`
	// ReadBytes of block pointers were read.
	ReadBytes int64 `json:"readBytes"`
	// ComparedBytes of content were read, since the block pointers differ.
	ComparedBytes int64 `json:"comparedBytes"`
	// UnreadableBytes of these some replica could not read.
	UnreadableBytes int64 `json:"unreadableBytes"`
	// Differ names the replicas whose content is not that of most, and where.
	// +optional
	// +listType=map
	// +listMapKey=id
	Differ []VolumeDifference `json:"differ,omitempty"`
}

// VolumeDifference is where a replica's content is not that of the others.
type VolumeDifference struct {
	ID    string `json:"id"`
	Bytes int64  `json:"bytes"`
	// Extents are offset+length, in bytes.
	// +kubebuilder:validation:MaxLength=2048
	Extents string `json:"extents"`
}

// The condition types of a Volume.
const (
	ConditionPlaced    = "Placed"      // every replica has a node (operator)
	ConditionServing   = "Serving"     // a target has a quorum and accepts I/O (target)
	ConditionHealthy   = "Healthy"     // every replica is in sync (target)
	ConditionPrefix    = "Complete"    // False after an unclean recovery: unflushed writes may be missing (target)
	ConditionSettled   = "Settled"     // level and voters are as the spec says (target)
	ConditionResized   = "Resized"     // the size is as the spec says (target)
	ConditionIntact    = "Intact"      // False while a replica has damage that stays: blocks that it cannot read (target)
	ConditionRecorded  = "Recorded"    // False while the replication's record, in the status, is not what the target wrote (target)
	ConditionSame      = "Identical"   // False when the last comparison found replicas to differ (target)
	ConditionPodsReady = "PodsReady"   // every pod of the volume is ready (operator)
	ConditionSecret    = "SecretReady" // hosts can prove themselves, with spec.authenticationSecret or the keys of spec.authentication (operator)
	ConditionDeleting  = "Deleting"    // what deletion waits for (operator)
)

// ReasonReleasingExtents is the reason of ConditionDeleting from which on the
// IO containers delete the extents of a Volume; see VolumeReplica.Released.
const ReasonReleasingExtents = "ReleasingExtents"

// What the authentication Secret of an iSCSI volume holds, as one of type
// kubernetes.io/iscsi-chap does: what initiators prove, and, if they ask for it,
// what the target does.
const (
	KeyCHAPUser         = "node.session.auth.username"
	KeyCHAPSecret       = "node.session.auth.password"
	KeyCHAPMutualUser   = KeyCHAPUser + "_in"
	KeyCHAPMutualSecret = KeyCHAPSecret + "_in"
	MaxSecret           = 4096 // bytes of each
)

// What the authentication Secret of an NVMe volume holds, in the form of
// nvme gen-dhchap-key: what hosts prove, and what the target does.
const (
	KeyDHCHAPHost       = "dhchap.host"
	KeyDHCHAPController = "dhchap.controller"
)

// AuthSecretName names the Secret with the keys of a volume whose nodes prove
// themselves; StorageClasses say the same as ${pv.name}-auth.
func AuthSecretName(volume string) string { return volume + "-auth" }

// The values of Authentication.
const (
	AuthenticationNone  = "none"
	AuthenticationNodes = "nodes"
)

// DefaultRecordSize is that of volumes that say none.
const DefaultRecordSize = "8Ki"

// RecordSizes are those that a volume may have.
func RecordSizes() []string { return []string{"4Ki", "8Ki", "16Ki", "32Ki", "64Ki", "128Ki"} }

// RecordBytes is the record size in bytes.
func (s *VolumeSpec) RecordBytes() int64 {
	q := resource.MustParse(cmp.Or(s.RecordSize, DefaultRecordSize)) // one of RecordSizes
	return q.Value()
}

// NodesAuthenticate reports whether nodes have to prove themselves.
func (v *Volume) NodesAuthenticate() bool { return v.Spec.Authentication == AuthenticationNodes }

// The frontends.
const (
	FrontendNVMe  = "nvme"
	FrontendISCSI = "iscsi"
)

// FrontendPort is where the volume's target listens.
func (v *Volume) FrontendPort() int {
	if v.Spec.Frontend == FrontendISCSI {
		return PortISCSI
	}
	return PortNVMe
}

// Volume is one replicated block device, the one behind a PersistentVolume of
// the same name.
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=cvol
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,48}[a-z0-9])?$')",message="a Volume's name starts with a letter, has letters, digits and '-' only, and at most 50 of them: the names of its pods are made from it"
// +kubebuilder:printcolumn:name="Claim",type=string,JSONPath=`.spec.claim`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="In Sync",type=string,JSONPath=`.status.inSync`
// +kubebuilder:printcolumn:name="Voting",type=string,JSONPath=`.status.voting`
// +kubebuilder:printcolumn:name="Level",type=string,JSONPath=`.status.level`
// +kubebuilder:printcolumn:name="Exposed",type=integer,JSONPath=`.status.exposed`
// +kubebuilder:printcolumn:name="Size",type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="Wanted",type=string,priority=1,JSONPath=`.spec.size`
// +kubebuilder:printcolumn:name="Consistency",type=string,priority=1,JSONPath=`.spec.consistency`
// +kubebuilder:printcolumn:name="Zones",type=string,priority=1,JSONPath=`.spec.zones`
// +kubebuilder:printcolumn:name="Min Voters",type=integer,priority=1,JSONPath=`.spec.minVoters`
// +kubebuilder:printcolumn:name="Change",type=string,priority=1,JSONPath=`.status.change`
// +kubebuilder:printcolumn:name="Target",type=string,JSONPath=`.status.target.node`
// +kubebuilder:printcolumn:name="Attached",type=string,JSONPath=`.spec.attachment.node`
// +kubebuilder:printcolumn:name="Frontend",type=string,priority=1,JSONPath=`.spec.frontend`
// +kubebuilder:printcolumn:name="Address",type=string,priority=1,JSONPath=`.status.target.address`
// +kubebuilder:printcolumn:name="Epoch",type=integer,priority=1,JSONPath=`.status.epoch`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.status=="False")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Volume struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VolumeSpec   `json:"spec"`
	Status VolumeStatus `json:"status,omitempty"`
}

// Releasing reports whether the extents of the volume are to be deleted now;
// see VolumeReplica.Released.
func (v *Volume) Releasing() bool {
	if v.DeletionTimestamp == nil {
		return false
	}
	for _, c := range v.Status.Conditions {
		if c.Type == ConditionDeleting {
			return c.Status == metav1.ConditionTrue && c.Reason == ReasonReleasingExtents
		}
	}
	return false
}

// VolumeList is a list of Volumes.
// +kubebuilder:object:root=true
type VolumeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Volume `json:"items"`
}
