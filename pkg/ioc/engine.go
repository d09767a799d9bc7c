package ioc

import (
	"context"
	"time"
)

// Engine hands out extents of one pool directory. FileEngine and Client
// implement it; ioctest holds the suite both pass.
type Engine interface {
	// Create makes an extent that reads as zeroes and returns its path,
	// relative to the pool directory. It is there after a crash once Create
	// returned. An extent whose content is gone (ErrMissing) is made anew;
	// any other one of that name is ErrExists.
	Create(ctx context.Context, name string, size uint64) (path string, err error)
	// Open returns a sound extent, else ErrNotFound, ErrMissing,
	// ErrTruncated or ErrDamaged.
	Open(ctx context.Context, name string) (Extent, error)
	// Grow makes an extent at least size bytes long; what it had stays. It is
	// so after a crash once Grow returned. A process that has it open goes on.
	Grow(ctx context.Context, name string, size uint64) error
	// Delete removes an extent, sound or not; ErrNotFound when there is
	// none. A process that has it open keeps what it has.
	Delete(ctx context.Context, name string) error
	// List returns every extent by name, also those with a Fault.
	List(ctx context.Context) ([]Extent, error)
	// Status says what the pool directory holds; an error says why it
	// cannot be used.
	Status(ctx context.Context) (Status, error)
}

// Extent is one virtual disk.
type Extent struct {
	Name      string    `json:"name"`
	Path      string    `json:"path"`      // relative to the pool directory
	Size      uint64    `json:"size"`      // bytes promised
	Allocated uint64    `json:"allocated"` // bytes the file system spent on it
	Created   time.Time `json:"created"`
	Fault     Code      `json:"fault,omitempty"` // in List only: why Open would fail
}

// Status is the state of a pool directory, in bytes.
type Status struct {
	Pool      string `json:"pool"`
	Node      string `json:"node"`
	PoolID    string `json:"poolID"`
	Engine    string `json:"engine"`
	Capacity  uint64 `json:"capacity"`  // of the file system
	Free      uint64 `json:"free"`      // of the file system
	Promised  uint64 `json:"promised"`  // sum of the extents' sizes
	Allocated uint64 `json:"allocated"` // what the extents take up now
	Available uint64 `json:"available"` // what can still be promised
	Extents   int    `json:"extents"`
	Faulty    int    `json:"faulty"` // extents with a Fault
}

// The bounds.
const (
	// MaxExtents is how many extents one pool directory holds.
	MaxExtents = 4096
	// MaxName bounds an extent's name, in bytes.
	MaxName = 200
	// MaxSize bounds an extent's size, in bytes.
	MaxSize = 1 << 50
	// SizeUnit divides every extent's size.
	SizeUnit = 4096
)

// checkSize returns nil for a size an extent may have.
func checkSize(name string, size uint64) error {
	if size == 0 || size > MaxSize || size%SizeUnit != 0 {
		return extentError(CodeInvalid, name, "size must be a multiple of 4096 bytes between 4096 and 1 PiB")
	}
	return nil
}

// checkName returns nil for a name an extent may have: lower-case letters,
// digits, '-' and '.', beginning and ending with a letter or digit, so that no
// name is a path, a hidden file or one of the engine's own.
func checkName(name string) error {
	ok := len(name) > 0 && len(name) <= MaxName
	for i := 0; ok && i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-', c == '.':
			ok = i > 0 && i < len(name)-1
		default:
			ok = false
		}
	}
	if !ok {
		shown := name
		if len(shown) > 64 {
			shown = shown[:64]
		}
		return extentError(CodeInvalid, shown,
			"a name has 1 to 200 of a-z, 0-9, '-' and '.', with a letter or digit at both ends")
	}
	return nil
}

// Replica says whose extent it is.
type Replica struct {
	Volume string
	ID     string // r0, r1, …: without '-'
}

// ExtentName is the name of the one extent the replica has in a pool.
func (r Replica) ExtentName() string { return r.Volume + "-" + r.ID }
