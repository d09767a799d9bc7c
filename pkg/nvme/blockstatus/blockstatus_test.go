package blockstatus_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/blockstatus"
)

func TestFromError(t *testing.T) {
	for _, c := range []struct {
		op   block.Op
		err  error
		want nvme.Status
		back error // class after the way back
	}{
		{block.OpRead, nil, nvme.Success, nil},
		{block.OpRead, block.ErrRange, nvme.LBAOutOfRange | nvme.DNR, block.ErrRange},
		{block.OpRead, block.ErrMedium, nvme.UnrecoveredRead | nvme.DNR, block.ErrMedium},
		{block.OpWrite, block.ErrMedium, nvme.WriteFault | nvme.DNR, block.ErrMedium},
		{block.OpFlush, block.ErrMedium, nvme.WriteFault | nvme.DNR, block.ErrMedium},
		{block.OpWrite, block.ErrNoSpace, nvme.CapacityExceeded | nvme.DNR, block.ErrNoSpace},
		{block.OpWrite, block.ErrReadOnly, nvme.NSWriteProtected | nvme.DNR, block.ErrReadOnly},
		{block.OpUnmap, block.ErrUnsupported, nvme.InvalidField | nvme.DNR, block.ErrUnsupported},
		{block.OpRead, block.ErrAborted, nvme.AbortRequested | nvme.DNR, block.ErrAborted},
		{block.OpRead, block.ErrIO, nvme.InternalError | nvme.DNR, block.ErrIO},
		{block.OpRead, errors.New("anything else"), nvme.InternalError | nvme.DNR, block.ErrIO},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("context: %w", err)
		}
		s, noStatus := blockstatus.FromError(c.op, err)
		if s != c.want || noStatus != nil {
			t.Errorf("%v of %v: %v, %v, want %v", c.err, c.op, s, noStatus, c.want)
		}
		if blockstatus.Transient(s) {
			t.Errorf("%v of %v: a host would repeat it for ever", c.err, c.op)
		}
		if back := blockstatus.ToError(s); !errors.Is(back, c.back) {
			t.Errorf("%v of %v comes back as %v", c.err, c.op, back)
		}
	}
	for _, err := range []error{block.ErrFenced, block.ErrClosed, fmt.Errorf("x: %w", block.ErrFenced)} {
		if _, noStatus := blockstatus.FromError(block.OpWrite, err); !errors.Is(noStatus, blockstatus.ErrNoStatus) {
			t.Errorf("%v has a status", err)
		}
	}
}

func TestTransient(t *testing.T) {
	for s, want := range map[nvme.Status]bool{
		nvme.Success:                          false,
		nvme.TransientTransportErr:            true,
		nvme.TransientTransportErr | nvme.DNR: false,
		nvme.CommandInterrupted:               true,
		nvme.NamespaceNotReady:                true,
		nvme.ANATransition:                    true,
		nvme.ANAInaccessible:                  true,
		nvme.InternalPathError:                true,
		nvme.UnrecoveredRead:                  false,
		nvme.InvalidField:                     false,
		nvme.InternalError:                    false,
	} {
		if got := blockstatus.Transient(s); got != want {
			t.Errorf("%v: %v", s, got)
		}
	}
	for s, want := range map[nvme.Status]error{
		nvme.InvalidOpcode: block.ErrUnsupported, nvme.GuardCheck: block.ErrMedium, 0x7ff: block.ErrIO, nvme.ReservationConflict: block.ErrIO,
	} {
		if got := blockstatus.ToError(s); !errors.Is(got, want) {
			t.Errorf("%v: %v, want %v", s, got, want)
		}
	}
}
