package memstore

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"maps"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// frozen is the content at one time. It does not rot. A block of zeroes is told
// apart from one that is not there.
type frozen struct {
	s      *Store
	blocks map[uint64][]byte
	closed atomic.Bool
}

// Freeze implements store.Comparer.
func (s *Store) Freeze() (store.Frozen, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("freeze: %w", store.ErrClosed)
	}
	return &frozen{s: s, blocks: maps.Clone(s.st.blocks)}, nil
}

// usable says why f cannot be used.
func (f *frozen) usable() error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.closed || f.closed.Load() {
		return fmt.Errorf("frozen content: %w", store.ErrClosed)
	}
	return nil
}

// Digests implements store.Frozen.
func (f *frozen) Digests(e block.Extent, piece uint64) ([]store.Digest, error) {
	bs := uint64(f.s.opt.BlockSize)
	if err := f.s.Info().CheckDigests(e, piece, min(bs, store.DigestUnit)); err != nil {
		return nil, err
	}
	if err := f.usable(); err != nil {
		return nil, err
	}
	var out []store.Digest
	for off := e.Off; off < e.End(); off += piece {
		h, d := fnv.New128a(), store.Digest{}
		for n := off / bs; n*bs < min(off+piece, e.End()); n++ {
			if b := f.blocks[n]; b != nil {
				_ = binary.Write(h, binary.LittleEndian, n) // a hash takes all
				_, _ = h.Write(b)
				d.Held += bs
			}
		}
		if d.Held > 0 {
			sum := h.Sum(nil)
			d.Sum = [2]uint64{binary.LittleEndian.Uint64(sum), binary.LittleEndian.Uint64(sum[8:])}
		}
		out = append(out, d)
	}
	return out, nil
}

// ReadAt implements store.Frozen.
func (f *frozen) ReadAt(p []byte, off uint64) error {
	if err := f.s.Info().CheckRead(len(p), off); err != nil {
		return err
	}
	if err := f.usable(); err != nil {
		return err
	}
	f.s.readBlocks(f.blocks, p, off)
	return nil
}

// Close implements store.Frozen.
func (f *frozen) Close() error {
	f.closed.Store(true)
	return nil
}

var _ store.Comparer = (*Store)(nil)
