package zvol

import (
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// edges are the blocks, of bs bytes, that a change of e changes in part.
func edges(e block.Extent, bs uint64) (out block.Set) {
	if e.Len == 0 {
		return nil
	}
	if e.Off%bs != 0 {
		out = out.With(block.Extent{Off: e.Off / bs * bs, Len: bs})
	}
	if end := e.End(); end%bs != 0 {
		out = out.With(block.Extent{Off: end / bs * bs, Len: bs})
	}
	return out
}

// rottenEdges lists the blocks that a change of e changes in part and that cannot be
// read. They are looked at before the change is logged: it could not be taken back.
func (s *Store) rottenEdges(e block.Extent) (rotten block.Set, err error) {
	bs := uint64(s.blockSize)
	for _, x := range edges(e, bs) {
		for off := x.Off; off < x.End(); off += bs {
			err := s.m.vol.ReadAt(make([]byte, bs), off)
			if errors.Is(err, store.ErrCorrupt) {
				rotten = rotten.With(block.Extent{Off: off, Len: bs})
			} else if err != nil {
				return nil, fmt.Errorf("read at %d: %w", off, err)
			}
		}
	}
	return rotten, nil
}

// place carries out a Write or an Unmap on vol. To do it again changes nothing.
func (s *Store) place(r *record) error {
	var err error
	if r.kind == kind(store.Write) {
		if len(r.payload) > 0 {
			err = s.m.vol.WriteAt(r.payload, r.extent.Off)
		}
	} else {
		err = s.zero(r.extent)
	}
	if err != nil {
		return fmt.Errorf("change %v: %w", r.extent, err)
	}
	return nil
}

// zero makes e read as zeroes: whole blocks are freed, parts of others written.
func (s *Store) zero(e block.Extent) error {
	bs := uint64(s.blockSize)
	from, to := roundUp(e.Off, bs), e.End()/bs*bs
	if from >= to { // no whole block
		return s.writeZeroes(e.Off, e.End())
	}
	if err := s.writeZeroes(e.Off, from); err != nil {
		return err
	}
	if err := s.m.vol.Discard(block.Extent{Off: from, Len: to - from}); err != nil {
		return err
	}
	return s.writeZeroes(to, e.End())
}

// writeZeroes writes less than two blocks.
func (s *Store) writeZeroes(from, to uint64) error {
	if from >= to {
		return nil
	}
	return s.m.vol.WriteAt(make([]byte, to-from), from)
}

// again carries out a change that the log has, after a crash. A block that can be
// neither read nor changed in part stays so: nothing of it is lost by that, and the
// rest of the change is made.
func (s *Store) again(r *record) error {
	err := s.place(r)
	if err == nil || !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrIO) {
		return err
	}
	rotten, cause := s.rottenEdges(r.extent)
	if cause != nil || len(rotten) == 0 {
		return errors.Join(err, cause)
	}
	rest := block.SetOf(r.extent)
	for _, e := range rotten {
		rest = rest.Without(e)
	}
	for _, e := range rest {
		part := *r
		part.extent = e
		if r.kind == kind(store.Write) {
			part.payload = r.payload[e.Off-r.extent.Off:][:e.Len]
		}
		if err := s.place(&part); err != nil {
			return err
		}
	}
	return nil
}
