// Package block defines what a block device is to the rest of Cask: a leaf
// package that frontends (NVMe/TCP, iSCSI, the user-space attach) call and
// that backends (a volume's target, a memory device, an NVMe host) implement.
//
// # Concurrency
//
// A Device takes any number of Requests at once, from any goroutine. Each
// Request is completed exactly once, by a call of its Done function, on any
// goroutine and possibly before Submit returns; Done must not block. The
// Device owns Bufs until then. Two requests in flight at once have no order
// between them; a Flush covers the writes that were completed before it was
// submitted.
//
// # Durability
//
// A Device has a volatile write cache: a completed write is visible to every
// later read, and is on stable storage once a later Flush, or the write's own
// FUA, has completed.
package block

import (
	"errors"
	"fmt"
)

// LBA is a logical block address, used at a protocol's edge only; byte
// Extents are used everywhere else.
type LBA uint64

// Extent is a range of bytes of a device.
type Extent struct {
	Off uint64 // first byte
	Len uint64 // bytes
}

// End is the first byte after e.
func (e Extent) End() uint64 { return e.Off + e.Len }

// Overlaps reports whether e and o share a byte.
func (e Extent) Overlaps(o Extent) bool {
	return e.Off < o.End() && o.Off < e.End() && e.Len > 0 && o.Len > 0
}

func (e Extent) String() string { return fmt.Sprintf("%d+%d", e.Off, e.Len) }

// Op is a verb of a block device.
type Op uint8

// The verbs.
const (
	OpRead        Op = iota + 1 // fill Bufs from Extent
	OpWrite                     // store Bufs at Extent
	OpFlush                     // make completed writes stable; Extent unused
	OpUnmap                     // the Extent's content becomes zeroes, its space is freed
	OpWriteZeroes               // the Extent's content becomes zeroes
)

func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpUnmap:
		return "unmap"
	case OpWriteZeroes:
		return "write zeroes"
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Request is one operation on a Device.
type Request struct {
	Op     Op
	Extent Extent
	FUA    bool     // OpWrite, OpUnmap, OpWriteZeroes: stable before completion
	Bufs   [][]byte // OpRead, OpWrite: the lengths add up to Extent.Len
	// Done is called exactly once with nil or an error of this package's
	// classes.
	Done func(*Request, error)
}

// Geometry is a device's shape. It changes only when the device is resized.
type Geometry struct {
	Size          uint64 // bytes, a multiple of BlockSize
	BlockSize     uint32 // logical block, bytes: the unit of alignment
	PhysicalBlock uint32 // preferred write granularity, bytes
	MaxTransfer   uint32 // largest Extent.Len of a read or write, bytes
}

// Device is a block device.
type Device interface {
	Geometry() Geometry
	// Submit starts r. It blocks only to bound the requests in flight.
	Submit(r *Request)
	// Close fails what is in flight with ErrClosed, waits for it, and
	// releases the device.
	Close() error
}

// The error classes of a completed Request; test with errors.Is.
var (
	ErrRange       = errors.New("beyond the end of the device or not aligned to its blocks")
	ErrMedium      = errors.New("unrecoverable medium error")
	ErrNoSpace     = errors.New("no space left in the pool")
	ErrReadOnly    = errors.New("device is read-only")
	ErrUnsupported = errors.New("operation is not supported")
	ErrAborted     = errors.New("request was aborted")
	ErrFenced      = errors.New("superseded by a newer epoch")
	ErrClosed      = errors.New("device is closed")
	ErrIO          = errors.New("input/output error")
	// ErrSessionOver is an ErrFenced that no repetition gets past: what a host
	// had been told before this moment may no longer be true.
	ErrSessionOver = fmt.Errorf("acknowledged writes may have been lost since this session began; it must begin anew: %w", ErrFenced)
)

// Check validates r against g: verb, alignment, range and buffer lengths.
func (g Geometry) Check(r *Request) error {
	switch r.Op {
	case OpFlush:
		return nil
	case OpRead, OpWrite, OpUnmap, OpWriteZeroes:
	default:
		return fmt.Errorf("%v: %w", r.Op, ErrUnsupported)
	}
	e, bs := r.Extent, uint64(g.BlockSize)
	if e.Off%bs != 0 || e.Len%bs != 0 || e.Len == 0 || e.Off > g.Size || e.Len > g.Size-e.Off {
		return fmt.Errorf("%s %v of a device of %d bytes: %w", r.Op, e, g.Size, ErrRange)
	}
	if r.Op == OpUnmap || r.Op == OpWriteZeroes {
		return nil
	}
	if e.Len > uint64(g.MaxTransfer) {
		return fmt.Errorf("%s of %d bytes, at most %d: %w", r.Op, e.Len, g.MaxTransfer, ErrUnsupported)
	}
	var n uint64
	for _, b := range r.Bufs {
		n += uint64(len(b))
	}
	if n != e.Len {
		return fmt.Errorf("%s of %d bytes with %d bytes of buffers: %w", r.Op, e.Len, n, ErrRange)
	}
	return nil
}
