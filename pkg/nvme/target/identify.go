package target

import (
	"math/bits"
	"slices"

	"github.com/cask-storage/cask/pkg/nvme"
)

// identify fills the command's buffer with what its CNS asks for.
func (ctrl *controller) identify(cmd *command) nvme.Status {
	p := cmd.sqe.IdentifyParams()
	out := (*[nvme.IdentifySize]byte)(cmd.data())
	if ctrl.sub.isDiscovery && p.CNS != nvme.CNSController {
		return nvme.InvalidField | nvme.DNR
	}
	switch p.CNS {
	case nvme.CNSController:
		ctrl.identifyController(out)
		return nvme.Success
	case nvme.CNSActiveNS:
		return ctrl.identifyActive(cmd.sqe.NSID(), out)
	case nvme.CNSControllers:
		return ctrl.identifyControllers(p.CNTLID, out)
	case nvme.CNSCommandSets:
		*out = [nvme.IdentifySize]byte{1} // vector 0: the NVM command set
		return nvme.Success
	case nvme.CNSControllerCSI, nvme.CNSActiveNSCSI, nvme.CNSNamespaceCSI:
		if p.CSI != 0 {
			return nvme.InvalidField | nvme.DNR
		}
	}
	switch p.CNS {
	case nvme.CNSControllerCSI:
		(&nvme.IdentifyControllerNVM{VSL: nvme.MDTSFor(ctrl.sub.maxTransfer())}).Encode(out)
		return nvme.Success
	case nvme.CNSActiveNSCSI:
		return ctrl.identifyActive(cmd.sqe.NSID(), out)
	case nvme.CNSNamespace, nvme.CNSDescriptors, nvme.CNSNamespaceCSI, nvme.CNSNamespaceCommon, nvme.CNSAttachedCtrls:
		return ctrl.identifyNamespace(cmd, out)
	}
	return nvme.InvalidField | nvme.DNR
}

// identifyNamespace answers the CNS values that concern one namespace.
func (ctrl *controller) identifyNamespace(cmd *command, out *[nvme.IdentifySize]byte) nvme.Status {
	p := cmd.sqe.IdentifyParams()
	ns := ctrl.sub.namespace(cmd.sqe.NSID())
	if ns == nil {
		if p.CNS == nvme.CNSNamespace && cmd.sqe.NSID() != 0 && cmd.sqe.NSID() <= ctrl.sub.lastNSID() {
			*out = [nvme.IdentifySize]byte{} // inactive
			return nvme.Success
		}
		return nvme.InvalidNamespace | nvme.DNR
	}
	switch p.CNS {
	case nvme.CNSNamespace:
		ns.identify(out)
	case nvme.CNSDescriptors:
		ns.descriptors(out)
	case nvme.CNSNamespaceCSI:
		*out = [nvme.IdentifySize]byte{}
	case nvme.CNSNamespaceCommon:
		(&nvme.IdentifyNamespaceCommon{
			Features: nsFeatures, NMIC: nvme.NMICShared, RESCAP: ns.rescap(), ANAGroup: ns.ANAGroup, Ready: true,
		}).Encode(out)
	case nvme.CNSAttachedCtrls:
		return ctrl.identifyControllers(p.CNTLID, out)
	}
	return nvme.Success
}

const nsFeatures = nvme.NSFeatThin | nvme.NSFeatOptPerf

func (s *subsystem) lastNSID() nvme.NSID {
	if len(s.namespaces) == 0 {
		return 0
	}
	return s.namespaces[len(s.namespaces)-1].ID
}

func (ctrl *controller) identifyController(out *[nvme.IdentifySize]byte) {
	s := ctrl.sub
	last := uint32(s.lastNSID())
	i := nvme.IdentifyController{
		Serial: s.Serial, Model: s.Model, Firmware: s.Firmware,
		CMIC: nvme.CMICMultiPorts | nvme.CMICMultiControllers | nvme.CMICANA, CNTLID: ctrl.id, Version: nvme.Version,
		MDTS: nvme.MDTSFor(s.maxTransfer()), CTRATT: nvme.CTRATTHostID128 | nvme.CTRATTTraffic,
		Type: nvme.CtrlTypeIO, ACL: 3, AERL: asyncEvents - 1, ELPE: errorEntries - 1,
		LPA: nvme.LPAEffects | nvme.LPAExtended, KAS: 1,
		MaxCmd: uint16(ctrl.depthLimit()), NN: last, MNAN: last,
		OAES: nvme.OAESNamespace | nvme.OAESANA, FUSES: nvme.FUSESCompareWrite, ACWU: maxFused - 1, OCFS: nvme.OCFSFormat0,
		ONCS:  nvme.ONCSCompare | nvme.ONCSDSM | nvme.ONCSWriteZeroes | nvme.ONCSReservations | nvme.ONCSVerify | nvme.ONCSCopy,
		ANATT: anaTransition, ANACAP: nvme.ANACAPAll,
		VWC: nvme.VWCPresent | nvme.VWCFlushOneNS, SGLS: nvme.SGLSSupported | nvme.SGLSInCapsule,
		SubNQN: s.NQN, IOCCSZ: (nvme.CommandSize + maxInCapsule) / 16,
		IORCSZ: nvme.CompletionSize / 16, MSDBD: 1,
	}
	if ids := s.groupIDs(); len(ids) > 0 {
		i.ANAGRPMAX, i.NANAGRPID = ids[len(ids)-1], uint32(len(ids))
	}
	if s.isDiscovery {
		i.Type, i.NN, i.MNAN, i.ONCS, i.VWC, i.CMIC = nvme.CtrlTypeDiscovery, 0, 0, 0, 0, 0
		i.ANATT, i.ANACAP, i.FUSES, i.OCFS, i.ELPE = 0, 0, 0, 0, 0
		i.LPA, i.OAES = nvme.LPAExtended, nvme.OAESDiscovery
	}
	i.Encode(out)
}

// identifyActive lists up to 1024 namespaces beyond after, in order.
func (ctrl *controller) identifyActive(after nvme.NSID, out *[nvme.IdentifySize]byte) nvme.Status {
	if after >= nvme.NSIDAll-1 {
		return nvme.InvalidNamespace | nvme.DNR
	}
	var ids []nvme.NSID
	for _, n := range ctrl.sub.namespaces {
		if n.ID > after {
			ids = append(ids, n.ID)
		}
	}
	*out = [nvme.IdentifySize]byte{}
	nvme.AppendNSIDs(out[:0], ids[:min(len(ids), nvme.IdentifySize/4)])
	return nvme.Success
}

// identifyControllers lists the controllers from an identifier on.
func (ctrl *controller) identifyControllers(from nvme.CNTLID, out *[nvme.IdentifySize]byte) nvme.Status {
	var ids []nvme.CNTLID
	for _, c := range ctrl.sub.controllersMatching(func(c *controller) bool { return c.id >= from }) {
		ids = append(ids, c.id)
	}
	slices.Sort(ids)
	*out = [nvme.IdentifySize]byte{}
	nvme.AppendControllers(out[:0], ids[:min(len(ids), nvme.MaxControllerList)])
	return nvme.Success
}

// rescap says which reservations the namespace takes.
func (n *namespace) rescap() uint8 {
	if n.Reservations.Keep != nil {
		return nvme.RESCAPAll | nvme.RESCAPPersist
	}
	return nvme.RESCAPAll
}

// identify describes the namespace as it is now.
func (n *namespace) identify(out *[nvme.IdentifySize]byte) {
	g := n.Device.Geometry()
	blocks := g.Size / uint64(g.BlockSize)
	most := n.sub.maxTransfer() / g.BlockSize // of a Copy
	// Granularities are in blocks and 0's based.
	grain := uint16(max(g.PhysicalBlock/g.BlockSize, 1) - 1)
	i := nvme.IdentifyNamespace{
		Size: blocks, Capacity: blocks, Used: blocks,
		Features: nsFeatures, NMIC: nvme.NMICShared,
		DLFeat: nvme.DLFeatZeroes | nvme.DLFeatWZDealloc, RESCAP: n.rescap(), ANAGroup: n.ANAGroup,
		MSSRL: uint16(min(most, 1<<16-1)), MCL: most, MSRC: maxCopyRanges - 1,
		NPWG: grain, NPWA: grain, NPDG: grain, NPDA: grain, NOWS: grain,
		NGUID: n.UUID, EUI64: n.eui64(), LBADS: uint8(bits.TrailingZeros32(g.BlockSize)),
	}
	i.Encode(out)
}

// descriptors lists the identifiers of the namespace.
func (n *Namespace) descriptors(out *[nvme.IdentifySize]byte) {
	eui := n.eui64()
	*out = [nvme.IdentifySize]byte{}
	b := nvme.Descriptor{Type: nvme.NIDTUUID, ID: n.UUID[:]}.Append(out[:0])
	b = nvme.Descriptor{Type: nvme.NIDTNGUID, ID: n.UUID[:]}.Append(b)
	b = nvme.Descriptor{Type: nvme.NIDTEUI64, ID: eui[:]}.Append(b)
	nvme.Descriptor{Type: nvme.NIDTCSI, ID: []byte{0}}.Append(b)
}
