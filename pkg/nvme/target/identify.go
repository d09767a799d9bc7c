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
		(&nvme.IdentifyControllerNVM{}).Encode(out)
		return nvme.Success
	case nvme.CNSActiveNSCSI:
		return ctrl.identifyActive(cmd.sqe.NSID(), out)
	}
	return ctrl.identifyNamespace(cmd, out)
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
		(&nvme.IdentifyNamespaceCommon{Features: nsFeatures, NMIC: nvme.NMICShared, Ready: true}).Encode(out)
	default:
		return nvme.InvalidField | nvme.DNR
	}
	return nvme.Success
}

const nsFeatures = nvme.NSFeatThin | nvme.NSFeatOptPerf

func (s *subsystem) lastNSID() nvme.NSID {
	var last nvme.NSID
	for i := range s.Namespaces {
		last = max(last, s.Namespaces[i].ID)
	}
	return last
}

func (ctrl *controller) identifyController(out *[nvme.IdentifySize]byte) {
	s := ctrl.sub
	last := uint32(s.lastNSID())
	i := nvme.IdentifyController{
		Serial: s.Serial, Model: s.Model, Firmware: s.Firmware,
		CMIC: nvme.CMICMultiControllers, CNTLID: ctrl.id, Version: nvme.Version,
		MDTS: nvme.MDTSFor(s.maxTransfer()), CTRATT: nvme.CTRATTHostID128,
		Type: nvme.CtrlTypeIO, ACL: 3, AERL: asyncEvents - 1,
		LPA: nvme.LPAEffects | nvme.LPAExtended, KAS: 1,
		MaxCmd: uint16(ctrl.depthLimit()), NN: last, MNAN: last,
		OAES: nvme.OAESNamespace, ONCS: nvme.ONCSDSM | nvme.ONCSWriteZeroes,
		VWC: nvme.VWCPresent | nvme.VWCFlushOneNS, SGLS: nvme.SGLSSupported | nvme.SGLSInCapsule,
		SubNQN: s.NQN, IOCCSZ: (nvme.CommandSize + maxInCapsule) / 16,
		IORCSZ: nvme.CompletionSize / 16, MSDBD: 1,
	}
	if s.isDiscovery {
		i.Type, i.NN, i.MNAN, i.ONCS, i.VWC, i.OAES, i.CMIC = nvme.CtrlTypeDiscovery, 0, 0, 0, 0, 0, 0
		i.LPA = nvme.LPAExtended
	}
	i.Encode(out)
}

// identifyActive lists up to 1024 namespaces beyond after, in order.
func (ctrl *controller) identifyActive(after nvme.NSID, out *[nvme.IdentifySize]byte) nvme.Status {
	if after >= nvme.NSIDAll-1 {
		return nvme.InvalidNamespace | nvme.DNR
	}
	var ids []nvme.NSID
	for i := range ctrl.sub.Namespaces {
		if id := ctrl.sub.Namespaces[i].ID; id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	*out = [nvme.IdentifySize]byte{}
	nvme.AppendNSIDs(out[:0], ids[:min(len(ids), nvme.IdentifySize/4)])
	return nvme.Success
}

// identify describes the namespace as it is now.
func (n *Namespace) identify(out *[nvme.IdentifySize]byte) {
	g := n.Device.Geometry()
	blocks := g.Size / uint64(g.BlockSize)
	// Granularities are in blocks and 0's based.
	grain := uint16(max(g.PhysicalBlock/g.BlockSize, 1) - 1)
	i := nvme.IdentifyNamespace{
		Size: blocks, Capacity: blocks, Used: blocks,
		Features: nsFeatures, NMIC: nvme.NMICShared,
		DLFeat: nvme.DLFeatZeroes | nvme.DLFeatWZDealloc,
		NPWG:   grain, NPWA: grain, NPDG: grain, NPDA: grain, NOWS: grain,
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
