package block

import (
	"cmp"
	"slices"
)

// Set is a set of bytes: extents, ascending, none empty, none touching another.
// Its methods return new sets and leave the receiver as it is.
type Set []Extent

// SetOf is the union of es.
func SetOf(es ...Extent) Set {
	sorted := slices.Clone(es)
	slices.SortFunc(sorted, func(a, b Extent) int { return cmp.Compare(a.Off, b.Off) })
	var s Set
	for _, e := range sorted {
		switch n := len(s); {
		case e.Len == 0:
		case n > 0 && e.Off <= s[n-1].End():
			s[n-1].Len = max(s[n-1].End(), e.End()) - s[n-1].Off
		default:
			s = append(s, e)
		}
	}
	return s
}

// Bytes is how many bytes are in s.
func (s Set) Bytes() (n uint64) {
	for _, e := range s {
		n += e.Len
	}
	return n
}

// Overlaps reports whether s has bytes of e.
func (s Set) Overlaps(e Extent) bool {
	return slices.ContainsFunc(s, func(x Extent) bool { return x.Overlaps(e) })
}

// With is s and es.
func (s Set) With(es ...Extent) Set { return SetOf(append(slices.Clone(s), es...)...) }

// Without is s but for e.
func (s Set) Without(e Extent) Set {
	var out Set
	for _, x := range s {
		if !x.Overlaps(e) {
			out = append(out, x)
			continue
		}
		if x.Off < e.Off {
			out = append(out, Extent{Off: x.Off, Len: e.Off - x.Off})
		}
		if x.End() > e.End() {
			out = append(out, Extent{Off: e.End(), Len: x.End() - e.End()})
		}
	}
	return out
}

// Within is what s and e have in common.
func (s Set) Within(e Extent) Set {
	var out Set
	for _, x := range s {
		if x.Overlaps(e) {
			off := max(x.Off, e.Off)
			out = append(out, Extent{Off: off, Len: min(x.End(), e.End()) - off})
		}
	}
	return out
}

// Common is what s and o have in common.
func (s Set) Common(o Set) Set {
	var out Set
	for len(s) > 0 && len(o) > 0 {
		off, end := max(s[0].Off, o[0].Off), min(s[0].End(), o[0].End())
		if off < end {
			out = append(out, Extent{Off: off, Len: end - off})
		}
		if s[0].End() < o[0].End() {
			s = s[1:]
		} else {
			o = o[1:]
		}
	}
	return out
}

// Coarse is a set of at most n extents that has every byte of s.
func (s Set) Coarse(n int) Set {
	for len(s) > n {
		half := make(Set, 0, len(s)/2+1)
		for i := 0; i < len(s); i += 2 {
			e := s[i]
			if i+1 < len(s) {
				e.Len = s[i+1].End() - e.Off
			}
			half = append(half, e)
		}
		s = half
	}
	return s
}
