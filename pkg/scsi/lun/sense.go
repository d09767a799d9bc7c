package lun

import (
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/scsi"
)

// classes maps the error classes of package block; it is searched in order.
// ErrFenced and ErrClosed have no sense: see Task.Gone.
var classes = []struct {
	class error
	sense scsi.Sense
}{
	{block.ErrRange, scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.LBAOutOfRange}},
	{block.ErrNoSpace, scsi.Sense{Key: scsi.DataProtect, Code: scsi.SpaceAllocation}},
	{block.ErrReadOnly, scsi.Sense{Key: scsi.DataProtect, Code: scsi.WriteProtected}},
	{block.ErrUnsupported, scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidFieldInCDB}},
	{block.ErrAborted, scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.NoAdditional}},
	{block.ErrIO, scsi.Sense{Key: scsi.HardwareError, Code: scsi.InternalFailure}},
}

// FromError is the sense data that tells an initiator of err, the outcome of op.
func FromError(op block.Op, err error) scsi.Sense {
	if errors.Is(err, block.ErrMedium) {
		if op == block.OpRead {
			return scsi.Sense{Key: scsi.MediumError, Code: scsi.UnrecoveredRead}
		}
		return scsi.Sense{Key: scsi.MediumError, Code: scsi.WriteError}
	}
	for _, c := range classes {
		if errors.Is(err, c.class) {
			return c.sense
		}
	}
	return scsi.Sense{Key: scsi.HardwareError, Code: scsi.InternalFailure}
}

// ToError is the error an initiator reports for an outcome of op that is
// neither success nor to be repeated.
func ToError(op block.Op, status scsi.Status, sense scsi.Sense) error {
	class := block.ErrIO
	switch {
	case status != scsi.CheckCondition:
	case sense.Key == scsi.MediumError:
		class = block.ErrMedium
	case sense.Code == scsi.InvalidOpcode:
		class = block.ErrUnsupported
	default:
		for _, c := range classes {
			if c.sense.Key == sense.Key && c.sense.Code == sense.Code {
				class = c.class
			}
		}
	}
	return fmt.Errorf("%v: %w (SCSI %v, %v)", op, class, status, sense)
}
