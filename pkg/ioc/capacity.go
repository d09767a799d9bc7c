package ioc

import "math/bits"

// Limits say how much of a file system may be promised to extents.
type Limits struct {
	ReservePercent    uint32 // of the file system, never promised; at most 100
	OvercommitPercent uint32 // promised of the rest; 100 promises no more than there is
}

// DefaultLimits are the StoragePool's defaults.
var DefaultLimits = Limits{ReservePercent: 10, OvercommitPercent: 100}

// Usage is what a file system and the extents on it take, in bytes.
type Usage struct {
	Capacity, Free      uint64 // of the file system
	Promised, Allocated uint64 // of the extents
}

// Available returns how many more bytes may be promised. What others keep on
// the file system is not promised either.
func (l Limits) Available(u Usage) uint64 {
	usable := min(u.Free+u.Allocated, u.Capacity)
	reserve := scale(u.Capacity, min(l.ReservePercent, 100))
	if usable <= reserve {
		return 0
	}
	limit := scale(usable-reserve, l.OvercommitPercent)
	if limit <= u.Promised {
		return 0
	}
	return limit - u.Promised
}

// scale returns n*percent/100, saturating.
func scale(n uint64, percent uint32) uint64 {
	hi, lo := bits.Mul64(n, uint64(percent))
	if hi >= 100 {
		return ^uint64(0)
	}
	q, _ := bits.Div64(hi, lo, 100)
	return q
}
