// Package blockstatus maps package block's error classes to NVMe statuses and
// back. It is the only place that does: a target encodes with FromError, a
// host decodes with ToError. Both are pure.
package blockstatus

import (
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
)

// ErrNoStatus says that an error has no status: the connection is to be
// closed instead, so that the host takes the command elsewhere.
var ErrNoStatus = errors.New("the command is to be repeated on another connection")

type pair struct {
	class  error
	status nvme.Status
}

// classes is searched in order; a status not retryable carries DNR.
var classes = []pair{
	{block.ErrRange, nvme.LBAOutOfRange | nvme.DNR},
	{block.ErrNoSpace, nvme.CapacityExceeded | nvme.DNR},
	{block.ErrReadOnly, nvme.NSWriteProtected | nvme.DNR},
	{block.ErrUnsupported, nvme.InvalidField | nvme.DNR},
	{block.ErrAborted, nvme.AbortRequested | nvme.DNR},
	{block.ErrIO, nvme.InternalError | nvme.DNR},
}

// FromError is the status that tells a host of err, the outcome of an op. It
// returns ErrNoStatus for a device that is closed or fenced.
func FromError(op block.Op, err error) (nvme.Status, error) {
	switch {
	case err == nil:
		return nvme.Success, nil
	case errors.Is(err, block.ErrFenced), errors.Is(err, block.ErrClosed):
		return 0, ErrNoStatus
	case errors.Is(err, block.ErrMedium) && op == block.OpRead:
		return nvme.UnrecoveredRead | nvme.DNR, nil
	case errors.Is(err, block.ErrMedium):
		return nvme.WriteFault | nvme.DNR, nil
	}
	for _, p := range classes {
		if errors.Is(err, p.class) {
			return p.status, nil
		}
	}
	return nvme.InternalError | nvme.DNR, nil
}

// ToError is the error a host reports for a status that is not retried.
func ToError(s nvme.Status) error {
	if s.OK() {
		return nil
	}
	class := block.ErrIO
	switch s.Code() {
	case nvme.UnrecoveredRead, nvme.WriteFault, nvme.GuardCheck, nvme.DeallocatedOrUnwrt:
		class = block.ErrMedium
	case nvme.InvalidOpcode:
		class = block.ErrUnsupported
	}
	for _, p := range classes {
		if p.status.Code() == s.Code() {
			class = p.class
		}
	}
	return fmt.Errorf("%w (NVMe %v)", class, s)
}

// Transient reports whether a host repeats the command rather than report it:
// the status allows it, and speaks of the way to the namespace or of a moment.
func Transient(s nvme.Status) bool {
	if !s.Retry() {
		return false
	}
	switch s.Code() {
	case nvme.CommandInterrupted, nvme.TransientTransportErr, nvme.NamespaceNotReady,
		nvme.AbortedSQDeletion, nvme.DataTransferError, nvme.CommandSequenceError:
		return true
	}
	return s.Type() == 3
}
