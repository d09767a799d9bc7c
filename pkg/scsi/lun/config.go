package lun

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/scsi"
)

// Bounds on what initiators ask for.
const (
	maxUnits         = 256      // of one Map
	maxRegistrations = 128      // of one unit
	maxUnmapRanges   = 256      // of one UNMAP
	maxUnmapBlocks   = 1 << 20  // of one UNMAP
	maxWriteSame     = 1 << 30  // bytes of one WRITE SAME
	maxCompareBlocks = 128      // of one COMPARE AND WRITE
	maxParameters    = 64 << 10 // bytes of a parameter list or of parameter data
	fillBytes        = 1 << 20  // bytes written at once by a WRITE SAME
)

// Keeper keeps the persistent reservations of a unit over restarts of its
// target.
type Keeper interface {
	// Load returns what was saved last, nil when nothing was.
	Load() ([]byte, error)
	// Save calls done once b is on stable storage, or with the reason why it
	// is not; it does not block. Empty b is no reservations.
	Save(b []byte, done func(error))
}

// Config of a Unit.
type Config struct {
	Device block.Device // stays its owner's: the Unit never closes it
	UUID   [16]byte     // identity of the content; serial and designators follow from it
	// Vendor, Product and Revision of INQUIRY; empty is "CASK", "Volume", "1".
	Vendor, Product, Revision string
	// Keeper makes reservations survive; without one APTPL is refused.
	Keeper Keeper
}

func (c *Config) identity() scsi.Identity {
	or := func(s, d string) string {
		if s == "" {
			return d
		}
		return s
	}
	h := sha256.Sum256(c.UUID[:])
	id := scsi.Identity{
		Vendor: or(c.Vendor, "CASK"), Product: or(c.Product, "Volume"), Revision: or(c.Revision, "1"),
		Serial: hex.EncodeToString(c.UUID[:]), UUID: c.UUID,
	}
	copy(id.NAA[:], h[:])
	id.NAA[0] = id.NAA[0]&0x0f | 0x30
	return id
}

func (c *Config) check() error {
	if c.Device == nil || c.UUID == [16]byte{} {
		return errors.New("SCSI unit: needs a device and a UUID")
	}
	g := c.Device.Geometry()
	if g.BlockSize < 512 || bits.OnesCount32(g.BlockSize) != 1 || g.BlockSize > 4096 {
		return fmt.Errorf("SCSI unit: block size %d, must be a power of two from 512 to 4096", g.BlockSize)
	}
	if g.MaxTransfer < 8192 || g.Size < uint64(g.BlockSize) {
		return fmt.Errorf("SCSI unit: size %d and largest transfer %d, must be at least a block and 8 KiB", g.Size, g.MaxTransfer)
	}
	return nil
}

// Mapping gives a Unit its number.
type Mapping struct {
	LUN  scsi.LUN
	Unit *Unit
}

// MapConfig of a Map.
type MapConfig struct {
	Port  scsi.Port // the target port the units are reached by
	Units []Mapping
}

func (c *MapConfig) prepare() error {
	if len(c.Units) == 0 || len(c.Units) > maxUnits {
		return fmt.Errorf("SCSI target %s: %d units, must be 1 to %d", c.Port.Device, len(c.Units), maxUnits)
	}
	c.Units = slices.Clone(c.Units)
	slices.SortFunc(c.Units, func(a, b Mapping) int { return int(a.LUN) - int(b.LUN) })
	for i, m := range c.Units {
		if m.Unit == nil || m.LUN > scsi.MaxLUN || i > 0 && c.Units[i-1].LUN == m.LUN {
			return fmt.Errorf("SCSI target %s: LUN %d has no unit, is too large or is given twice", c.Port.Device, m.LUN)
		}
	}
	return nil
}
