package target

import (
	"net"
	"slices"
	"strings"

	"github.com/cask-storage/cask/pkg/nvme"
)

// logPage fills the command's buffer with a part of a log page; what is asked
// for beyond the page's end reads as zeroes.
func (ctrl *controller) logPage(cmd *command) nvme.Status {
	p := cmd.sqe.Log()
	page, s := ctrl.page(p, cmd.conn)
	if !s.OK() {
		return s
	}
	out := cmd.data()
	clear(out)
	if p.Offset > uint64(len(page)) || p.Offset%4 != 0 {
		return nvme.InvalidField | nvme.DNR
	}
	copy(out, page[p.Offset:])
	return nvme.Success
}

// page builds a whole log page.
func (ctrl *controller) page(p nvme.LogParams, c *conn) ([]byte, nvme.Status) {
	if ctrl.sub.isDiscovery {
		if p.LID != nvme.LogDiscovery {
			return nil, nvme.InvalidLogPage | nvme.DNR
		}
		ctrl.looked(eventDiscovery, p.Retain)
		return ctrl.sub.t.discoveryLog(c), nvme.Success
	}
	switch p.LID {
	case nvme.LogSupported:
		return supportedPages(), nvme.Success
	case nvme.LogError:
		return ctrl.errorPage(), nvme.Success
	case nvme.LogSMART:
		return ctrl.sub.smartPage(), nvme.Success
	case nvme.LogFirmware:
		b := make([]byte, nvme.LogFirmwareSize)
		b[0] = 1 // slot 1 is active
		copy(b[8:16], ctrl.sub.Firmware+"        ")
		return b, nvme.Success
	case nvme.LogChangedNS:
		return ctrl.changedPage(p.Retain), nvme.Success
	case nvme.LogEffects:
		return effectsPage(), nvme.Success
	case nvme.LogANA:
		ctrl.looked(eventANA, p.Retain)
		return ctrl.sub.anaPage(p.LSP&1 == 1), nvme.Success
	case nvme.LogReservation:
		return ctrl.noticePage(p.Retain), nvme.Success
	}
	return nil, nvme.InvalidLogPage | nvme.DNR
}

func supportedPages() []byte {
	b := make([]byte, nvme.LogSupportedSize)
	for _, l := range []nvme.LID{
		nvme.LogSupported, nvme.LogError, nvme.LogSMART, nvme.LogFirmware, nvme.LogChangedNS, nvme.LogEffects,
		nvme.LogANA, nvme.LogReservation,
	} {
		b[4*int(l)] = 1
	}
	return b
}

func effectsPage() []byte {
	var e nvme.Effects
	for _, o := range []nvme.Opcode{
		nvme.OpGetLogPage, nvme.OpIdentify, nvme.OpAbort, nvme.OpSetFeatures,
		nvme.OpGetFeatures, nvme.OpAsyncEvent, nvme.OpKeepAlive,
	} {
		e.Admin[o] = nvme.EffectSupported
	}
	for _, o := range []nvme.Opcode{nvme.OpWrite, nvme.OpWriteZeroes, nvme.OpDSM, nvme.OpCopy} {
		e.IO[o] = nvme.EffectSupported | nvme.EffectContent
	}
	for _, o := range []nvme.Opcode{
		nvme.OpRead, nvme.OpFlush, nvme.OpCompare, nvme.OpVerify, nvme.OpReservationRegister,
		nvme.OpReservationAcquire, nvme.OpReservationRelease, nvme.OpReservationReport,
	} {
		e.IO[o] = nvme.EffectSupported
	}
	var b [nvme.LogEffectsSize]byte
	e.Encode(&b)
	return b[:]
}

// looked notes that the page of an event was read.
func (ctrl *controller) looked(e event, retain bool) {
	if retain {
		return
	}
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	ctrl.lookedLocked(e)
}

// smartPage is the health log. A unit of data is a thousand times 512 bytes,
// rounded up.
func (s *subsystem) smartPage() []byte {
	units := func(n uint64) uint64 { return (n + 512_000 - 1) / 512_000 }
	var b [nvme.LogSMARTSize]byte
	(&nvme.SMART{
		Kelvin: 300, Spare: 100, SpareLow: 10,
		UnitsRead: units(s.bytesRead.Load()), UnitsWritten: units(s.bytesWritten.Load()),
		Reads: s.reads.Load(), Writes: s.writes.Load(), MediaErrors: s.mediaErrors.Load(), ErrorEntries: s.errors.Load(),
	}).Encode(&b)
	return b[:]
}

// changedPage lists the namespaces changed since it was last read, and lets
// the next event through.
func (ctrl *controller) changedPage(retain bool) []byte {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	ids := slices.Sorted(slices.Values(ctrl.changed))
	if len(ids) > nvme.MaxChangedNS {
		ids = []nvme.NSID{nvme.NSIDAll}
	}
	b := make([]byte, nvme.LogChangedNSSize)
	nvme.AppendNSIDs(b[:0], ids)
	if !retain {
		ctrl.changed = nil
		ctrl.lookedLocked(eventNamespace)
	}
	return b
}

// discoveryLog lists the subsystems at the address to advertise to the host of
// c.
func (t *Target) discoveryLog(c *conn) []byte {
	addr := t.cfg.Advertise
	if addr == "" {
		addr = c.nc.LocalAddr().String()
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr // not TCP: tests with pipes
	}
	family := uint8(nvme.AddressIPv4)
	if strings.Contains(host, ":") {
		family = nvme.AddressIPv6
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	l := nvme.DiscoveryLog{Generation: t.generation}
	for nqn := range t.subsystems {
		l.Entries = append(l.Entries, nvme.DiscoveryEntry{
			Transport: nvme.TransportTCP, Family: family, Subtype: nvme.SubtypeNVM, Treq: nvme.TreqNotRequired,
			PortID: t.cfg.PortID, CNTLID: nvme.CNTLIDDynamic, AdminDepth: adminDepth,
			Service: port, SubNQN: nqn, Address: host,
		})
	}
	slices.SortFunc(l.Entries, func(a, b nvme.DiscoveryEntry) int { return strings.Compare(a.SubNQN, b.SubNQN) })
	return l.Append(nil)
}
