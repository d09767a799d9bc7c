package volume

// nqnPrefix is Cask's name space of NVMe Qualified Names (NVMe base
// specification, 4.7). Frozen: hosts and volumes are known by it.
const nqnPrefix = "nqn.2026-01.storage.cask:"

// iqnPrefix is Cask's name space of iSCSI names (RFC 7143, 4.2.7). Frozen.
const iqnPrefix = "iqn.2026-01.storage.cask:"

// NSID is the namespace of a volume in its subsystem.
const NSID = 1

// SubsystemNQN is the NVMe subsystem that a volume is served as.
func SubsystemNQN(volume string) string { return nqnPrefix + "volume:" + volume }

// NodeName is the iSCSI target node that a volume is served as, with LUN 0.
func NodeName(volume string) string { return iqnPrefix + "volume:" + volume }

// HostNQN is the name of a node's host for one attachment of a volume.
func HostNQN(node, attachment string) string { return nqnPrefix + "host:" + node + ":" + attachment }
