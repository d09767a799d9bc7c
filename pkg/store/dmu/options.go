package dmu

import (
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// The bounds and defaults of Options.
const (
	DefaultPool      = "cask"
	DefaultBlockSize = 8 << 10
	DefaultIdle      = 30 * time.Second
	DefaultMemory    = 384 << 20
	MinMemory        = 192 << 20
	MinExtent        = 64 << 20
	defaultHostID    = 0xca5c
	minBlockSize     = 4 << 10
	maxBlockSize     = 128 << 10
)

// Options say where a store is and how it is made.
type Options struct {
	Path        string // of the extent, an existing file
	Pool        string // zpool name; DefaultPool when empty
	Size        uint64 // bytes, a multiple of BlockSize; Create only
	BlockSize   uint32 // volblocksize, a power of two; DefaultBlockSize when 0; Create only
	Compression string // "lz4", the default, "zstd" or "off"; Create only
	Memory      uint64 // bytes the process may take; DefaultMemory when 0
	IO          IO     // engine; the first store's counts
	HostID      uint32 // ZFS's host ID of the process; the first store's counts
	// Idle is how long nothing uses the store before it gives its cache back;
	// DefaultIdle when 0.
	Idle time.Duration
}

// compressions are those of Options, in the order of the shim's numbers.
var compressions = []string{"off", "lz4", "zstd"}

// IO is how the extent's file is read and written.
type IO int

// The engines.
const (
	IOAuto    IO = iota // io_uring, or threads where it cannot be had
	IOUring             // the same: what cannot be had is not insisted on
	IOThreads           // system calls on a few threads
)

func (i IO) String() string {
	switch i {
	case IOUring:
		return "io_uring"
	case IOThreads:
		return "threads"
	}
	return "auto"
}

// UnmarshalText reads the name of an engine.
func (i *IO) UnmarshalText(b []byte) error {
	for k := IOAuto; k <= IOThreads; k++ {
		if k.String() == string(b) {
			*i = k
			return nil
		}
	}
	return fmt.Errorf("I/O engine %q is not known, give auto, io_uring or threads: %w", b, block.ErrRange)
}

// MarshalText returns the name of the engine.
func (i IO) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// complete fills in the defaults.
func (o Options) complete() (Options, error) {
	if o.Path == "" {
		return o, fmt.Errorf("no path of an extent given: %w", block.ErrRange)
	}
	abs, err := filepath.Abs(o.Path)
	if err != nil {
		return o, fmt.Errorf("extent %s: %w", o.Path, err)
	}
	o.Path = abs
	if o.Pool == "" {
		o.Pool = DefaultPool
	}
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.Compression == "" {
		o.Compression = "lz4"
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.Idle == 0 {
		o.Idle = DefaultIdle
	}
	if o.HostID == 0 {
		o.HostID = defaultHostID
	}
	if o.Memory < MinMemory {
		return o, fmt.Errorf("extent %s: %d bytes of memory are too few, give at least %d: %w",
			o.Path, o.Memory, MinMemory, block.ErrRange)
	}
	return o, nil
}

// checkCreate validates what only Create uses.
func (o Options) checkCreate() error {
	bs := uint64(o.BlockSize)
	if bs < minBlockSize || bs > maxBlockSize || bs&(bs-1) != 0 {
		return fmt.Errorf("extent %s: block size %d is not a power of two from %d to %d: %w",
			o.Path, bs, minBlockSize, maxBlockSize, block.ErrRange)
	}
	if o.Size == 0 || o.Size%bs != 0 {
		return fmt.Errorf("extent %s: size %d is not a multiple of the block size %d: %w",
			o.Path, o.Size, bs, block.ErrRange)
	}
	if !slices.Contains(compressions, o.Compression) {
		return fmt.Errorf("extent %s: unknown compression %q, use one of %v: %w",
			o.Path, o.Compression, compressions, block.ErrRange)
	}
	return nil
}

// arc and dirty share Memory out: what remains is for the log, the network
// buffers, Go and fragmentation.
func (o Options) arc() uint64   { return o.Memory / 3 }
func (o Options) dirty() uint64 { return o.Memory / 8 }
