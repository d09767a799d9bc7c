package zvol

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// shape is what a volume is made with.
type shape struct {
	size      uint64 // bytes, a multiple of blockSize
	blockSize uint32 // bytes, a power of two
	ring      uint64 // bytes
}

// Bounds of a volume's blocks, in bytes: those of ZFS without large blocks.
const (
	minBlockSize = 4 << 10
	maxBlockSize = 128 << 10
)

func (sh shape) check() error {
	bs := uint64(sh.blockSize)
	if bs < minBlockSize || bs > maxBlockSize || bs&(bs-1) != 0 {
		return fmt.Errorf("block size %d is not a power of two from %d to %d: %w", bs, minBlockSize, maxBlockSize, block.ErrRange)
	}
	if sh.size == 0 || sh.size%bs != 0 {
		return fmt.Errorf("size %d is not a multiple of the block size %d: %w", sh.size, bs, block.ErrRange)
	}
	return nil
}

// format makes an empty volume's log, stable.
func format(log device, sh shape) error {
	st := &state{size: sh.size}
	st.table.fit(sh.size)
	j := &journal{dev: log, ring: sh.ring, super: super{ring: sh.ring, blockSize: sh.blockSize}}
	return j.checkpoint(st, 1)
}

// open brings what is on the machine to where its log says that it is. It takes the
// machine over, also when it fails.
func open(name string, m machine) (*Store, error) {
	s := &Store{name: name, m: m}
	err := s.load()
	if err == nil {
		return s, nil
	}
	_ = m.close() // err says more
	return nil, fmt.Errorf("open volume %s: %w", name, err)
}

func (s *Store) load() (err error) {
	if s.j, s.st, err = openJournal(s.m.log); err != nil {
		return err
	}
	s.blockSize = s.j.super.blockSize
	if s.actual, err = s.m.node.Snapshots(); err != nil {
		return err
	}
	if err := s.j.scan(s.redo); err != nil {
		return err
	}
	s.st.have(s.actual)
	// No record that a crash left behind its last one is ever taken for one written
	// from now on.
	if err := s.checkpoint(s.j.super.incarnation + 1); err != nil {
		return err
	}
	return s.settle()
}

// redo carries out what the log has, and what may have been done before.
func (s *Store) redo(r *record) error {
	was := s.st.size
	if r.kind == kind(store.Write) || r.kind == kind(store.Unmap) {
		if err := s.again(r); err != nil {
			return fmt.Errorf("do record %d again: %w", r.number, err)
		}
	}
	if err := s.st.apply(r, s.j.readSlot); err != nil {
		return err
	}
	if s.st.size == was {
		return nil
	}
	return s.m.node.Resize(s.st.size)
}
