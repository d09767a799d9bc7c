package zvol

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// frozenID is where the numbers of frozen content begin: no record has such a one,
// so that the next Open destroys what a crash left.
const frozenID = 1 << 63

// frozen is a snapshot in no list.
type frozen struct {
	s      *Store
	x      taken
	info   store.Info
	closed atomic.Bool
}

// Freeze implements store.Comparer.
func (s *Store) Freeze() (store.Frozen, error) {
	if err := s.enterChange("freeze"); err != nil {
		return nil, err
	}
	defer s.leave()
	s.frozen++
	f := &frozen{s: s, info: s.Info(), x: taken{name: fmt.Sprint(frozenName, s.frozen), id: frozenID + s.frozen, seq: uint64(s.st.mark)}}
	if err := s.m.node.Snapshot(f.x); err != nil {
		return nil, fmt.Errorf("freeze volume %s: %w", s.name, err)
	}
	return f, nil
}

// enter begins a call; leave ends it.
func (f *frozen) enter() (leave func(), err error) {
	if err := f.s.enter("frozen content"); err != nil {
		return nil, err
	}
	f.s.past.use.RLock()
	leave = func() {
		f.s.past.use.RUnlock()
		f.s.leave()
	}
	if f.closed.Load() {
		leave()
		return nil, fmt.Errorf("frozen content of volume %s: %w", f.s.name, store.ErrClosed)
	}
	return leave, nil
}

// Digests implements store.Frozen: what is read is summed. A block of zeroes is as
// one that is not there.
func (f *frozen) Digests(e block.Extent, piece uint64) ([]store.Digest, error) {
	if err := f.info.CheckDigests(e, piece, store.DigestUnit); err != nil {
		return nil, err
	}
	leave, err := f.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	var out []store.Digest
	buf := make([]byte, store.DigestUnit)
	err = f.s.past.read(f.s.m.node, f.x, func(d device) error {
		for off := e.Off; off < e.End(); off += piece {
			one, err := f.digest(d, block.Extent{Off: off, Len: min(piece, e.End()-off)}, buf)
			if err != nil {
				return err
			}
			out = append(out, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("frozen content of volume %s: %w", f.s.name, err)
	}
	return out, nil
}

// digest sums e, a buffer at a time. What is all zeroes is left out, and each unit's
// place is summed with it.
func (f *frozen) digest(d device, e block.Extent, buf []byte) (out store.Digest, err error) {
	h, bs := sha256.New(), int(f.info.BlockSize)
	for off := e.Off; off < e.End(); off += uint64(len(buf)) {
		p := buf[:min(uint64(len(buf)), e.End()-off)]
		if err := d.ReadAt(p, off); err != nil {
			return out, fmt.Errorf("read at %d: %w", off, err)
		}
		out.Read += uint64(len(p))
		held := out.Held
		for at := 0; at < len(p); at += bs {
			if n := min(bs, len(p)-at); !zeroes(p[at : at+n]) {
				out.Held += uint64(n)
			}
		}
		if out.Held > held { // a hash takes all
			_, _ = h.Write(le.AppendUint64(nil, off))
			_, _ = h.Write(p)
		}
	}
	if out.Held > 0 {
		sum := h.Sum(nil)
		out.Sum = [2]uint64{le.Uint64(sum), le.Uint64(sum[8:])}
	}
	return out, nil
}

func zeroes(p []byte) bool {
	for ; len(p) >= 8; p = p[8:] {
		if le.Uint64(p) != 0 {
			return false
		}
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// ReadAt implements store.Frozen.
func (f *frozen) ReadAt(p []byte, off uint64) error {
	leave, err := f.enter()
	if err != nil {
		return err
	}
	defer leave()
	return f.s.readPast(f.x, f.info.Size, func(uint64) error { return f.info.CheckRead(len(p), off) }, p, off)
}

// Close implements store.Frozen.
func (f *frozen) Close() error {
	if err := f.s.enter("frozen content"); err != nil {
		return nil // the next Open destroys it
	}
	defer f.s.leave()
	if f.closed.Swap(true) {
		return nil
	}
	if err := f.s.still(func() error { return f.s.m.node.Destroy(f.x.name) }); err != nil {
		return fmt.Errorf("frozen content of volume %s: %w", f.s.name, err)
	}
	return nil
}
