package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
)

// Alignment is what every Extent of an Op is aligned to, in bytes.
const Alignment = 512

// MaxOp bounds the data of one Write, in bytes: it is applied in one
// transaction.
const MaxOp = 8 << 20

// Check validates ops, to be applied in order to a store of shape i. The error
// is of class block.ErrRange.
func (i Info) Check(ops []Op) error {
	for n := range ops {
		if err := i.check(&ops[n]); err != nil {
			return fmt.Errorf("operation %d of %d: %w", n+1, len(ops), err)
		}
		i.Mark, i.Size = ops[n].after(i.Mark), ops[n].Resized(i.Size)
	}
	return nil
}

// Resized is the size once o was applied to a store of size bytes.
func (o *Op) Resized(size uint64) uint64 {
	if o.Kind == Resize || o.Kind == Rebase && o.Extent.Len != 0 {
		return o.Extent.End()
	}
	return size
}

// after is the mark once o was applied.
func (o *Op) after(mark history.Seq) history.Seq {
	if o.Kind == Rebase || o.Seq != 0 {
		return o.Seq
	}
	return mark
}

func (i Info) check(o *Op) error {
	mark := i.Mark
	if o.Kind == Rebase {
		if o.Extent.Off != 0 || o.Extent.Len%uint64(i.BlockSize) != 0 {
			return fmt.Errorf("rebase to a size of %v, in blocks of %d: %w", o.Extent, i.BlockSize, block.ErrRange)
		}
		if o.Base > mark {
			return fmt.Errorf("rebase on %d, beyond the mark %d: %w", o.Base, mark, block.ErrRange)
		}
		return nil
	}
	if o.Seq != 0 && o.Seq <= mark {
		return fmt.Errorf("seq %d is not beyond the mark %d: %w", o.Seq, mark, block.ErrRange)
	}
	switch o.Kind {
	case Write, Unmap:
	case Snapshot:
		if o.Seq == 0 {
			return fmt.Errorf("snapshot without a seq: %w", block.ErrRange)
		}
		return CheckName(o.Name)
	case Resize:
		if e := o.Extent; o.Seq == 0 || e.Off != i.Size || e.End() < e.Off || e.Len%uint64(i.BlockSize) != 0 {
			return fmt.Errorf("resize of %d bytes by %v, in blocks of %d, at seq %d: %w", i.Size, e, i.BlockSize, o.Seq, block.ErrRange)
		}
		return nil
	case DropSnapshot:
		return nil
	default:
		return fmt.Errorf("unknown kind %d: %w", o.Kind, block.ErrRange)
	}
	e := o.Extent
	if e.Off%Alignment != 0 || e.Len%Alignment != 0 || e.Off > i.Size || e.Len > i.Size-e.Off {
		return fmt.Errorf("extent %v of a store of %d bytes: %w", e, i.Size, block.ErrRange)
	}
	if o.Kind == Write && (uint64(len(o.Data)) != e.Len || e.Len > MaxOp) {
		return fmt.Errorf("write of %v with %d bytes of data, at most %d: %w", e, len(o.Data), MaxOp, block.ErrRange)
	}
	return nil
}

// CheckRead validates a read of n bytes from off.
func (i Info) CheckRead(n int, off uint64) error {
	if off > i.Size || uint64(n) > i.Size-off {
		return fmt.Errorf("read of %d+%d of a store of %d bytes: %w", off, n, i.Size, block.ErrRange)
	}
	return nil
}

// Bounds of one call of Digests. No block is larger than the unit, or crosses one.
const (
	DigestUnit = 256 << 10 // bytes: where pieces begin
	MaxDigests = 1024      // pieces
)

// CheckDigests validates a call of Digests: at most MaxDigests pieces that begin at
// multiples of unit, which is DigestUnit but in tests.
func (i Info) CheckDigests(e block.Extent, piece, unit uint64) error {
	if e.Len == 0 || e.Off > i.Size || e.Len > i.Size-e.Off || e.Off%unit != 0 || piece == 0 || piece%unit != 0 || (e.Len-1)/piece >= MaxDigests {
		return fmt.Errorf("digests of %v by %d of a store of %d bytes, at most %d: %w", e, piece, i.Size, MaxDigests, block.ErrRange)
	}
	return nil
}

// CheckMeta validates a metadata record's length.
func CheckMeta(b []byte) error {
	if len(b) > MaxMeta {
		return fmt.Errorf("metadata record of %d bytes, at most %d: %w", len(b), MaxMeta, block.ErrRange)
	}
	return nil
}

// engineNames is how the names begin that engines take for themselves.
const engineNames = "cask-changed-"

// CheckName validates a snapshot's name: up to MaxName of a-z, 0-9 and -, not
// beginning with -. The error is of class block.ErrRange.
func CheckName(name string) error {
	bad := strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
	if bad || name == "" || len(name) > MaxName || name[0] == '-' || strings.HasPrefix(name, engineNames) {
		return fmt.Errorf("snapshot name %.80q: give 1 to %d of a-z, 0-9 and -, beginning with neither - nor %q: %w",
			name, MaxName, engineNames, block.ErrRange)
	}
	return nil
}

// Takes reports whether a Snapshot called name, where have are there, does more
// than move the mark.
func Takes(have []SnapshotInfo, name string) bool {
	return len(have) < MaxSnapshots && !slices.ContainsFunc(have, func(s SnapshotInfo) bool { return s.Name == name })
}
