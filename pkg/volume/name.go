package volume

import (
	"strconv"
	"strings"

	"github.com/cask-storage/cask/pkg/history"
)

// nqnPrefix is Cask's name space of NVMe Qualified Names (NVMe base
// specification, 4.7). Frozen: hosts and volumes are known by it.
const nqnPrefix = "nqn.2026-01.storage.cask:"

// iqnPrefix is Cask's name space of iSCSI names (RFC 7143, 4.2.7). Frozen.
const iqnPrefix = "iqn.2026-01.storage.cask:"

// NSID is the namespace of a volume in its subsystem.
const NSID = 1

// SubsystemNQN is the NVMe subsystem that a volume is served as until it has
// lost acknowledged writes; see AfterLoss.
func SubsystemNQN(volume string) string { return nqnPrefix + "volume:" + volume }

// NodeName is the iSCSI target node that a volume is served as, with LUN 0,
// until it has lost acknowledged writes; see AfterLoss.
func NodeName(volume string) string { return iqnPrefix + "volume:" + volume }

// lostMark stands between a volume's name and the epoch of a loss. Frozen.
const lostMark = ":lost-"

// AfterLoss is the name for the sessions that begin once the record says that
// acknowledged writes may have been lost in an epoch; the name itself when none
// were. So a host that only knows the name from before can never be taken for
// one that has begun anew.
func AfterLoss(name string, lost history.Epoch) string {
	if lost == 0 {
		return name
	}
	return name + lostMark + strconv.FormatUint(uint64(lost), 10)
}

// LossOf is the inverse of AfterLoss: whether asked is name after some loss,
// and which.
func LossOf(name, asked string) (lost history.Epoch, ok bool) {
	if asked == name {
		return 0, true
	}
	n, ok := strings.CutPrefix(asked, name+lostMark)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(n, 10, 64)
	if err != nil || AfterLoss(name, history.Epoch(v)) != asked {
		return 0, false
	}
	return history.Epoch(v), true
}

// HostNQN is the name of a node's host for one attachment of a volume.
func HostNQN(node, attachment string) string { return nqnPrefix + "host:" + node + ":" + attachment }
