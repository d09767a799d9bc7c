package zvol

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cask-storage/cask/pkg/store"
)

// journal writes and reads the log. One goroutine at a time uses it, but flush and
// readSlot.
type journal struct {
	dev   device
	super super  // the one that counts
	ring  uint64 // bytes
	next  uint64
	head  uint64 // where the next record begins: bytes of the log's whole life
	buf   []byte // of append
}

// at is where on the device pos is.
func (j *journal) at(pos uint64) uint64 { return ringAt + pos%j.ring }

// left is how many bytes of the ring come between pos and its end.
func (j *journal) left(pos uint64) uint64 { return j.ring - pos%j.ring }

// largest is the most that records of one append may take. With it twice what there
// may be before a checkpoint there is always room, a pad included.
func (j *journal) largest() uint64 { return j.ring / 3 }

// full reports whether a checkpoint has to come before records of n bytes.
func (j *journal) full(n uint64) bool { return j.head-j.super.pos+n > j.ring/3 && j.head > j.super.pos }

// append numbers the records and writes them, in one piece. They are in the log when
// it returns, and stable after flush.
func (j *journal) append(rs ...*record) error {
	n := uint64(0)
	for _, r := range rs {
		n += r.size()
	}
	if n > j.largest() {
		return fmt.Errorf("records of %d bytes in a log of %d: %w", n, j.ring, store.ErrNoSpace)
	}
	j.buf = j.buf[:0]
	if left := j.left(j.head); left < n {
		pad := record{kind: kindPad, incarnation: j.super.incarnation, number: j.next}
		if err := j.dev.WriteAt(pad.encode(j.buf), j.at(j.head)); err != nil {
			return fmt.Errorf("write to the log: %w", err)
		}
		j.head, j.next = j.head+left, j.next+1
	}
	for _, r := range rs {
		r.incarnation, r.number = j.super.incarnation, j.next
		j.buf = r.encode(j.buf)
		j.next++
	}
	if err := j.dev.WriteAt(j.buf, j.at(j.head)); err != nil {
		return fmt.Errorf("write to the log: %w", err)
	}
	j.head += n
	if cap(j.buf) > maxIdleBuffer {
		j.buf = nil
	}
	return nil
}

// maxIdleBuffer bounds what a journal holds between two appends, in bytes.
const maxIdleBuffer = 1 << 20

// number is what the next record will be called.
func (j *journal) number(n uint64) uint64 {
	if j.left(j.head) < n {
		return j.next + 1
	}
	return j.next
}

// flush makes all that was appended stable.
func (j *journal) flush() error {
	if err := j.dev.Flush(); err != nil {
		return fmt.Errorf("flush the log: %w", err)
	}
	return nil
}

// checkpoint makes st the place from which the log is read. All that led to it is
// stable in vol.
func (j *journal) checkpoint(st *state, incarnation uint64) error {
	b := st.encode()
	s := j.super
	s.generation, s.incarnation, s.number, s.pos = s.generation+1, incarnation, j.next, j.head
	s.length, s.sum = uint32(len(b)), crc32.Checksum(b, castagnoli)
	if len(b) > areaLen {
		return fmt.Errorf("checkpoint of %d bytes, at most %d: %w", len(b), areaLen, store.ErrFormat)
	}
	half := s.generation % 2
	b = append(b, zeroSector[:roundUp(uint64(len(b)), sector)-uint64(len(b))]...)
	if err := j.dev.WriteAt(b, areaAt+half*areaLen); err != nil {
		return fmt.Errorf("write a checkpoint: %w", err)
	}
	if err := j.dev.WriteAt(s.encode(), half*superLen); err != nil {
		return fmt.Errorf("write a superblock: %w", err)
	}
	if err := j.flush(); err != nil {
		return err
	}
	j.super = s
	return nil
}

// openJournal finds the newest checkpoint.
func openJournal(dev device) (*journal, *state, error) {
	var newest *journal
	var state *state
	for half := range uint64(2) {
		s, st, err := readCheckpoint(dev, half)
		switch {
		case errors.Is(err, errNoRecord), errors.Is(err, errChecksum): // cut short
		case err != nil:
			return nil, nil, err
		case newest == nil || s.generation > newest.super.generation:
			newest, state = &journal{dev: dev, super: s, ring: s.ring, next: s.number, head: s.pos}, st
		}
	}
	if newest == nil {
		return nil, nil, fmt.Errorf("no superblock in the log: %w", store.ErrNotFound)
	}
	return newest, state, nil
}

func readCheckpoint(dev device, half uint64) (super, *state, error) {
	b := make([]byte, sector)
	if err := dev.ReadAt(b, half*superLen); err != nil {
		return super{}, nil, fmt.Errorf("read a superblock: %w", err)
	}
	s, err := decodeSuper(b)
	if err != nil {
		return s, nil, err
	}
	b = make([]byte, s.length)
	if err := dev.ReadAt(b, areaAt+half*areaLen); err != nil {
		return s, nil, fmt.Errorf("read a checkpoint: %w", err)
	}
	if crc32.Checksum(b, castagnoli) != s.sum {
		return s, nil, errChecksum
	}
	st, err := decodeState(b)
	return s, st, err
}

// scan calls each with the records after the checkpoint, in order, until there are no
// more. A record's payload is valid during the call.
func (j *journal) scan(each func(*record) error) error {
	var buf []byte
	for {
		if j.left(j.head) < headerLen { // cannot be: all is in sectors
			return fmt.Errorf("log at %d: %w", j.head, store.ErrFormat)
		}
		buf = append(buf[:0], zeroSector[:]...)
		if err := j.dev.ReadAt(buf, j.at(j.head)); err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		head, n, err := decodeHeader(buf)
		size := headerLen + uint64(n)
		if err != nil || head.incarnation != j.super.incarnation || head.number != j.next || size > j.left(j.head) {
			return nil
		}
		if n > 0 {
			buf = append(buf, make([]byte, n)...)
			if err := j.dev.ReadAt(buf[headerLen:], j.at(j.head)+headerLen); err != nil {
				return fmt.Errorf("read the log: %w", err)
			}
		}
		r, err := decodeRecord(buf)
		if errors.Is(err, errChecksum) {
			return nil
		}
		if err == nil {
			err = each(&r)
		}
		if err != nil {
			return err
		}
		j.next++
		j.head += r.size()
		if r.kind == kindPad {
			j.head += j.left(j.head-headerLen) - headerLen
		}
	}
}

// slotAt is where on the device a slot is.
func (j *journal) slotAt(slot uint32) uint64 { return ringAt + j.ring + uint64(slot)*slotLen }

func (j *journal) writeSlot(slot uint32, t *slotTable) error {
	if err := j.dev.WriteAt(t.encode(), j.slotAt(slot)); err != nil {
		return fmt.Errorf("write a table: %w", err)
	}
	return nil
}

// readSlot reads the table of a snapshot.
func (j *journal) readSlot(slot uint32) (slotTable, error) {
	b := make([]byte, sector)
	if err := j.dev.ReadAt(b, j.slotAt(slot)); err != nil {
		return slotTable{}, fmt.Errorf("read a table: %w", err)
	}
	n, err := slotSize(b)
	if err != nil {
		return slotTable{}, fmt.Errorf("table in slot %d: %w: %w", slot, store.ErrCorrupt, err)
	}
	b = make([]byte, n)
	if err := j.dev.ReadAt(b, j.slotAt(slot)); err != nil {
		return slotTable{}, fmt.Errorf("read a table: %w", err)
	}
	t, err := decodeSlot(b)
	if err != nil {
		return slotTable{}, fmt.Errorf("table in slot %d: %w: %w", slot, store.ErrCorrupt, err)
	}
	return t, nil
}

// logSize is the size of a log with a ring, in bytes: most of it is never written.
func logSize(ring uint64) uint64 { return ringAt + ring + maxSlots*slotLen }
