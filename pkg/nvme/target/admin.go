package target

import (
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
)

// classifyAdmin decides the data of an admin command.
func (ctrl *controller) classifyAdmin(cmd *command) nvme.Status {
	sqe := &cmd.sqe
	switch sqe.Opcode() {
	case nvme.OpIdentify:
		cmd.dir, cmd.length = toHost, nvme.IdentifySize
	case nvme.OpGetLogPage:
		n := sqe.Log().Len
		if n > uint64(ctrl.sub.maxTransfer()) {
			return nvme.InvalidField | nvme.DNR
		}
		cmd.dir, cmd.length = toHost, uint32(n)
	case nvme.OpGetFeatures:
		if f := sqe.Feature(); f.FID == nvme.FeatHostID && f.Select == nvme.SelectCurrent {
			cmd.dir, cmd.length = toHost, nvme.UUIDSize
		}
	case nvme.OpSetFeatures:
		if sqe.Feature().FID == nvme.FeatHostID {
			// The Connect fixed it; do not take the data.
			return nvme.CommandSequenceError | nvme.DNR
		}
	case nvme.OpAbort, nvme.OpAsyncEvent, nvme.OpKeepAlive:
	default:
		return nvme.InvalidOpcode | nvme.DNR
	}
	if ctrl.sub.isDiscovery && !forDiscovery(sqe.Opcode()) {
		return nvme.InvalidOpcode | nvme.DNR
	}
	return nvme.Success
}

// forDiscovery reports whether a discovery controller takes the command.
func forDiscovery(o nvme.Opcode) bool { return o != nvme.OpAbort }

// runAdmin runs an admin command.
func (ctrl *controller) runAdmin(cmd *command) {
	c := cmd.conn
	switch cmd.sqe.Opcode() {
	case nvme.OpIdentify:
		cmd.fail(ctrl.identify(cmd))
	case nvme.OpGetLogPage:
		cmd.fail(ctrl.logPage(cmd))
	case nvme.OpGetFeatures:
		cmd.result, cmd.status = ctrl.getFeature(cmd)
	case nvme.OpSetFeatures:
		cmd.result, cmd.status = ctrl.setFeature(cmd.sqe.Feature(), cmd.sqe.NSID())
	case nvme.OpAsyncEvent:
		ctrl.holdEvent(cmd)
		return
	case nvme.OpAbort:
		cmd.result = uint64(ctrl.abort(cmd))
	case nvme.OpKeepAlive: // its arrival was noted
	default:
		cmd.fail(nvme.InvalidOpcode | nvme.DNR)
	}
	c.complete(cmd)
}

// getFeature reads a feature.
func (ctrl *controller) getFeature(cmd *command) (uint64, nvme.Status) {
	f := cmd.sqe.Feature()
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	switch f.Select {
	case nvme.SelectCurrent:
	case nvme.SelectSupported:
		return ctrl.featureSupport(f.FID)
	default:
		return 0, nvme.InvalidField | nvme.DNR
	}
	switch f.FID {
	case nvme.FeatArbitration, nvme.FeatPowerManagement, nvme.FeatTemperature,
		nvme.FeatErrorRecovery, nvme.FeatWriteAtomicity:
		return 0, nvme.Success
	case nvme.FeatWriteCache:
		return 1, nvme.Success
	case nvme.FeatNumberOfQueues:
		n := uint32(ctrl.queueLimit)
		return uint64(nvme.QueueCounts{Submission: n, Completion: n}.Encode()), nvme.Success
	case nvme.FeatAsyncEvents:
		return uint64(ctrl.asyncConfig), nvme.Success
	case nvme.FeatKeepAlive:
		return uint64(ctrl.keepAlive / time.Millisecond), nvme.Success
	case nvme.FeatHostID:
		copy(cmd.data(), ctrl.hostID[:])
		return 0, nvme.Success
	case nvme.FeatReservationMask, nvme.FeatReservationPersist:
		return ctrl.reservationFeatureLocked(f.FID, cmd.sqe.NSID())
	}
	return 0, nvme.InvalidField | nvme.DNR
}

// featureSupport answers what can be done with a feature: bit 2 is changeable.
func (ctrl *controller) featureSupport(id nvme.FID) (uint64, nvme.Status) {
	switch id {
	case nvme.FeatNumberOfQueues, nvme.FeatAsyncEvents, nvme.FeatKeepAlive:
		return 1 << 2, nvme.Success
	case nvme.FeatReservationMask: // of each namespace, too
		return 1<<2 | 1<<1, nvme.Success
	case nvme.FeatReservationPersist: // by Reservation Register only
		return 1 << 1, nvme.Success
	case nvme.FeatArbitration, nvme.FeatPowerManagement, nvme.FeatTemperature, nvme.FeatHostID,
		nvme.FeatErrorRecovery, nvme.FeatWriteAtomicity, nvme.FeatWriteCache:
		return 0, nvme.Success
	}
	return 0, nvme.InvalidField | nvme.DNR
}

// setFeature changes a feature.
func (ctrl *controller) setFeature(f nvme.FeatureParams, id nvme.NSID) (uint64, nvme.Status) {
	if f.FID == nvme.FeatReservationMask && !f.Save {
		return 0, ctrl.maskNotices(id, f.Value)
	}
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	if f.Save {
		return 0, nvme.FeatureNotSaveable | nvme.DNR
	}
	switch f.FID {
	case nvme.FeatNumberOfQueues:
		q := nvme.DecodeQueueCounts(f.Value)
		if q.Submission > 65535 || q.Completion > 65535 {
			return 0, nvme.InvalidField | nvme.DNR
		}
		if len(ctrl.conns) > 1 {
			return 0, nvme.CommandSequenceError | nvme.DNR
		}
		n := min(q.Submission, q.Completion, uint32(ctrl.sub.t.cfg.Limits.Queues))
		ctrl.queueLimit = int(n)
		return uint64(nvme.QueueCounts{Submission: n, Completion: n}.Encode()), nvme.Success
	case nvme.FeatAsyncEvents:
		ctrl.asyncConfig = f.Value & ctrl.sub.asyncConfigs()
		return 0, nvme.Success
	case nvme.FeatKeepAlive:
		ctrl.keepAlive = roundKeepAlive(f.Value)
		return 0, nvme.Success
	case nvme.FeatWriteCache:
		if f.Value&1 == 1 {
			return 0, nvme.Success // it is on
		}
		return 0, nvme.FeatureNotChangeable | nvme.DNR
	}
	if _, known := ctrl.featureSupport(f.FID); known.OK() {
		return 0, nvme.FeatureNotChangeable | nvme.DNR
	}
	return 0, nvme.InvalidField | nvme.DNR
}

// abort aborts a held event request, or a command that waits for room; what is
// in a device is not aborted. It returns the command's result: 0 is aborted, 1
// is not.
func (ctrl *controller) abort(abort *command) uint32 {
	sqid, cid := nvme.QID(abort.sqe.DW(10)), nvme.CID(abort.sqe.DW(10)>>16)
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	for i, cmd := range ctrl.aers {
		if sqid == 0 && cmd.sqe.CID() == cid {
			ctrl.aers = append(ctrl.aers[:i], ctrl.aers[i+1:]...)
			cmd.conn.complete(cmd.fail(nvme.AbortRequested))
			return 0
		}
	}
	if c := ctrl.conns[sqid]; c != nil && c.abortPending(cid) {
		return 0
	}
	return 1
}

// noticeBits are the reservation notices that can be masked.
const noticeBits = 1<<nvme.RegistrationPreempted | 1<<nvme.ReservationReleased | 1<<nvme.ReservationPreempted

// maskNotices sets which reservation notices of a namespace, or of all, the
// host does not want.
func (ctrl *controller) maskNotices(id nvme.NSID, mask uint32) nvme.Status {
	if id != nvme.NSIDAll && ctrl.sub.namespace(id) == nil {
		return nvme.InvalidNamespace | nvme.DNR
	}
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	if ctrl.noticeMask == nil {
		ctrl.noticeMask = map[nvme.NSID]uint32{}
	}
	for _, n := range ctrl.sub.namespaces {
		if id == n.ID || id == nvme.NSIDAll {
			ctrl.noticeMask[n.ID] = mask & noticeBits
		}
	}
	return nvme.Success
}

func (ctrl *controller) reservationFeatureLocked(f nvme.FID, id nvme.NSID) (uint64, nvme.Status) {
	n := ctrl.sub.namespace(id)
	switch {
	case n == nil:
		return 0, nvme.InvalidNamespace | nvme.DNR
	case f == nvme.FeatReservationMask:
		return uint64(ctrl.noticeMask[id]), nvme.Success
	case n.reservations.Load().Persist:
		return 1, nvme.Success
	}
	return 0, nvme.Success
}
