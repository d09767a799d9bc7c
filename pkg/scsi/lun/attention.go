package lun

import (
	"math/bits"

	"github.com/cask-storage/cask/pkg/scsi"
)

// attention is a unit attention condition, as the number of a bit: the lowest
// one pending is reported first, and one of a kind is enough.
type attention uint32

const (
	attnPowerOn attention = iota
	attnReset
	attnCapacity
	attnMode
	attnPreempted
	attnReleased
	attnUnregistered
	attnAccess
)

var attentionCodes = [...]scsi.Code{
	attnPowerOn: scsi.PowerOnOrReset, attnReset: scsi.BusDeviceReset, attnCapacity: scsi.CapacityChanged,
	attnMode: scsi.ModeChanged, attnPreempted: scsi.ReservationsPreempted, attnReleased: scsi.ReservationsReleased,
	attnUnregistered: scsi.RegistrationsPreempt, attnAccess: scsi.AccessStateChanged,
}

// raise notes a for the unit at position i. A power on or reset covers what
// was pending before.
func (n *Nexus) raise(i int, a attention) {
	if a == attnPowerOn || a == attnReset {
		n.pending[i].Store(1 << a)
		return
	}
	n.pending[i].Or(1 << a)
}

// take clears the next attention of a unit and returns its sense data.
func (n *Nexus) take(i int) (scsi.Sense, bool) {
	p := &n.pending[i]
	for {
		old := p.Load()
		if old == 0 {
			return scsi.Sense{}, false
		}
		a := bits.TrailingZeros32(old)
		if p.CompareAndSwap(old, old&^(1<<a)) {
			return scsi.Sense{Key: scsi.UnitAttention, Code: attentionCodes[a]}, true
		}
	}
}
