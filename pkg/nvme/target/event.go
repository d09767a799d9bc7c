package target

import (
	"github.com/cask-storage/cask/pkg/nvme"
)

// event is something a host is told by an Asynchronous Event Request. Each is
// sent once, and again after the host has read its log page.
type event uint8

const (
	eventNamespace event = iota
	eventANA
	eventDiscovery
	eventReservation
	events
)

// eventKinds say how an event is asked for and told. Config 0 needs no asking.
var eventKinds = [events]struct {
	config uint32
	result nvme.AsyncEvent
}{
	eventNamespace:   {nvme.AsyncConfigNamespace, nvme.AsyncEvent{Type: nvme.EventNotice, Info: nvme.NoticeNamespace, Log: nvme.LogChangedNS}},
	eventANA:         {nvme.AsyncConfigANA, nvme.AsyncEvent{Type: nvme.EventNotice, Info: nvme.NoticeANA, Log: nvme.LogANA}},
	eventDiscovery:   {nvme.AsyncConfigDiscovery, nvme.AsyncEvent{Type: nvme.EventNotice, Info: nvme.NoticeDiscovery, Log: nvme.LogDiscovery}},
	eventReservation: {0, nvme.AsyncEvent{Type: nvme.EventIO, Info: nvme.EventReservation, Log: nvme.LogReservation}},
}

// asyncConfigs are the bits of FeatAsyncEvents that a controller has.
func (s *subsystem) asyncConfigs() uint32 {
	if s.isDiscovery {
		return nvme.AsyncConfigDiscovery
	}
	return nvme.AsyncConfigNamespace | nvme.AsyncConfigANA
}

// holdEvent keeps an Asynchronous Event Request until there is an event.
func (ctrl *controller) holdEvent(cmd *command) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	switch {
	case ctrl.dead:
	case len(ctrl.aers) >= asyncEvents:
		cmd.conn.complete(cmd.fail(nvme.AsyncLimitExceeded | nvme.DNR))
	default:
		ctrl.aers = append(ctrl.aers, cmd)
		ctrl.sendEventsLocked()
	}
}

// happened tells the host of an event when it wants to know.
func (ctrl *controller) happened(e event) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	if ctrl.dead {
		return
	}
	ctrl.due |= 1 << e
	ctrl.sendEventsLocked()
}

// looked lets the next event of a kind through: its page was read.
func (ctrl *controller) lookedLocked(e event) {
	ctrl.masked &^= 1 << e
	ctrl.sendEventsLocked()
}

// sendEventsLocked completes held requests while events are due.
func (ctrl *controller) sendEventsLocked() {
	for e := range events {
		k := &eventKinds[e]
		wanted := k.config == 0 || ctrl.asyncConfig&k.config != 0
		if len(ctrl.aers) == 0 || !wanted || ctrl.due&^ctrl.masked&(1<<e) == 0 {
			continue
		}
		cmd := ctrl.aers[0]
		ctrl.aers = ctrl.aers[1:]
		ctrl.due &^= 1 << e
		ctrl.masked |= 1 << e
		cmd.result = k.result.Encode()
		cmd.conn.complete(cmd)
	}
}

// namespaceChanged records a change and tells the host.
func (ctrl *controller) namespaceChanged(id nvme.NSID) {
	ctrl.mu.Lock()
	known := false
	for _, have := range ctrl.changed {
		known = known || have == id
	}
	if !known && len(ctrl.changed) <= nvme.MaxChangedNS {
		ctrl.changed = append(ctrl.changed, id)
	}
	ctrl.mu.Unlock()
	ctrl.happened(eventNamespace)
}

// maxNotices bounds the reservation notices kept for a host that reads none.
const maxNotices = 64

// reservationNotice adds a page to the reservation log, unless the host has
// masked it.
func (ctrl *controller) reservationNotice(id nvme.NSID, what nvme.ReservationNotice) {
	ctrl.mu.Lock()
	if ctrl.noticeMask[id]>>what&1 == 1 {
		ctrl.mu.Unlock()
		return
	}
	ctrl.noticeCount++
	if len(ctrl.notices) < maxNotices {
		ctrl.notices = append(ctrl.notices, nvme.ReservationLog{Count: ctrl.noticeCount, Notice: what, NSID: id})
	}
	ctrl.mu.Unlock()
	ctrl.happened(eventReservation)
}

// noticePage is the oldest reservation notice, which it takes unless the event
// is to be retained.
func (ctrl *controller) noticePage(retain bool) []byte {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	if len(ctrl.notices) == 0 {
		return nvme.ReservationLog{}.Append(nil)
	}
	l := ctrl.notices[0]
	l.More = uint8(len(ctrl.notices) - 1)
	if !retain {
		ctrl.notices = ctrl.notices[1:]
		if len(ctrl.notices) > 0 {
			ctrl.due |= 1 << eventReservation
		}
		ctrl.lookedLocked(eventReservation)
	}
	return l.Append(nil)
}

// errorEntries is the length of a controller's error log.
const errorEntries = 64

// noteError adds a failed command to the error log.
func (ctrl *controller) noteError(cmd *command) {
	e := nvme.ErrorEntry{QID: cmd.conn.qid, CID: cmd.sqe.CID(), Status: cmd.status, NSID: cmd.sqe.NSID()}
	if cmd.conn.qid != 0 {
		e.LBA = cmd.sqe.SLBA()
	}
	if cmd.sqe.Opcode() == nvme.OpFabrics {
		e.NSID = 0
	}
	ctrl.sub.errors.Add(1)
	if e.Status.Type() == 2 && e.Status.Code() != nvme.CompareFailure {
		ctrl.sub.mediaErrors.Add(1)
	}
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	ctrl.errorCount++
	e.Count = ctrl.errorCount
	if ctrl.errors == nil {
		ctrl.errors = make([]nvme.ErrorEntry, errorEntries)
	}
	ctrl.errors[ctrl.errorCount%errorEntries] = e
}

// errorPage is the error log, newest first.
func (ctrl *controller) errorPage() []byte {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	b := make([]byte, 0, errorEntries*nvme.LogErrorSize)
	for i := range uint64(errorEntries) {
		var e nvme.ErrorEntry
		if ctrl.errorCount > i {
			e = ctrl.errors[(ctrl.errorCount-i)%errorEntries]
		}
		if e.Count == 0 {
			b = append(b, make([]byte, nvme.LogErrorSize)...)
			continue
		}
		b = e.Append(b)
	}
	return b
}
