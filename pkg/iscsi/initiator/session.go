package initiator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// session is a login in the full feature phase, with its one connection.
type session struct {
	cfg  *Config
	nc   net.Conn
	rd   *iscsi.Reader
	lun  [8]byte
	unit ride.Shape
	wake chan struct{} // capacity 1: there is something to send
	// look has an entry when the unit is to be looked at again.
	look      chan struct{} // capacity 1
	broken    chan struct{} // closed when dead
	wg        sync.WaitGroup
	heard     atomic.Uint64 // PDUs of the target
	expStatSN atomic.Uint32
	scratch   [][]byte           // the reader's
	sense     [maxSenseData]byte // likewise
	params    params

	mu      sync.Mutex
	dead    bool
	err     error
	table   []*command // outstanding, by ITT
	free    []uint32
	backlog []*command // for a place in the table and in the target's window
	out     []item
	cmdSN   uint32 // of the next command
	maxSN   uint32 // of the last one the target takes
	seq     uint64
}

// item is something for the writer.
type item struct {
	kind kind
	c    *command // of kindCommand and kindData
	itt  uint32
	seq  uint64 // of c
	ttt  uint32 // of kindData and kindPong
	data block.Extent
	sn   uint32 // CmdSN
}

type kind uint8

const (
	kindCommand kind = iota
	kindData         // asked for by an R2T
	kindPing
	kindPong // answers the target's ping
	kindLogout
)

// Tags of what is not in the table.
const (
	pingTag   uint32 = 0xfffffffd
	logoutTag uint32 = 0xfffffffe
)

// start begins the full feature phase of a login.
func start(cfg *Config, nc net.Conn, l *login) *session {
	n := cfg.Depth + ownCommands
	s := &session{cfg: cfg, nc: nc, rd: l.rd, lun: cfg.LUN.Encode(), params: l.params, wake: make(chan struct{}, 1),
		look: make(chan struct{}, 1), broken: make(chan struct{}), table: make([]*command, n), cmdSN: l.cmdSN, maxSN: l.maxCmdSN}
	s.expStatSN.Store(l.expStatSN)
	for i := range n {
		s.free = append(s.free, uint32(n-1-i))
	}
	s.wg.Add(2)
	go func() { // owner: the session; Close waits
		defer s.wg.Done()
		s.breakOff(s.read())
	}()
	go func() { // likewise
		defer s.wg.Done()
		s.breakOff(s.write(l.batch))
	}()
	return s
}

// breakOff makes the session dead; the first call says why.
func (s *session) breakOff(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dead {
		s.dead, s.err = true, err
		close(s.broken)
		_ = s.nc.Close()
	}
}

// why is what broke the session.
func (s *session) why() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Submit takes a task.
func (s *session) Submit(t *ride.Task) bool {
	c := t.Wire.(*command)
	c.prepare(uint64(s.unit.Geometry.BlockSize))
	return s.submit(c)
}

// submit sends a command as soon as there is room, unless the session is dead.
func (s *session) submit(c *command) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return false
	}
	c.s = s
	s.backlog = append(s.backlog, c)
	s.wakeLocked()
	return true
}

// put queues something else.
func (s *session) put(i item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = append(s.out, i)
	s.wakeLocked()
}

func (s *session) wakeLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close ends the connection and its goroutines and returns the tasks that did
// not end.
func (s *session) Close() []*ride.Task {
	s.breakOff(net.ErrClosed)
	s.wg.Wait()
	var left []*ride.Task
	for _, c := range append(s.table, s.backlog...) {
		if c != nil && c.task != nil {
			left = append(left, c.task)
		}
	}
	return left
}

// take moves what is to be sent now into items: everything but commands that
// the target's window or the table has no room for.
func (s *session) take(items []item) []item {
	s.mu.Lock()
	defer s.mu.Unlock()
	items, s.out = append(items, s.out...), s.out[:0]
	n := 0
	for ; n < len(s.backlog) && len(s.free) > 0 && !iscsi.Serial(s.maxSN).Before(iscsi.Serial(s.cmdSN)); n++ {
		c := s.backlog[n]
		last := len(s.free) - 1
		itt := s.free[last]
		s.free = s.free[:last]
		s.seq++
		c.seq, c.got, c.asked, c.sent = s.seq, 0, false, false
		s.table[itt] = c
		items = append(items, item{c: c, itt: itt, seq: c.seq, sn: s.cmdSN})
		s.cmdSN++
	}
	rest := copy(s.backlog, s.backlog[n:])
	clear(s.backlog[rest:])
	s.backlog = s.backlog[:rest]
	for i := range items {
		if k := items[i].kind; k == kindPing || k == kindPong || k == kindLogout {
			items[i].sn = s.cmdSN // for immediate delivery: the number is not used up
		}
	}
	return items
}

// write sends what is queued until the session is dead.
func (s *session) write(b *iscsi.Batch) error {
	w := writer{s: s, b: b}
	var items []item
	for {
		select {
		case <-s.wake:
		case <-s.broken:
			return net.ErrClosed
		}
		items = s.take(items[:0])
		for i := range items {
			if err := w.encode(items[i]); err != nil {
				return err
			}
		}
		if err := b.Flush(s.nc); err != nil {
			return err
		}
		clear(items)
	}
}

// writer is what the writing goroutine has.
type writer struct {
	s       *session
	b       *iscsi.Batch
	all     [][]byte // data of an item
	scratch [][]byte // of a PDU
	cdb     scsi.CDB
	flags   uint8
	size    uint32
}

// begin starts a PDU, once there is room.
func (w *writer) begin(o iscsi.Opcode) (*iscsi.Header, error) {
	if w.b.Full() {
		if err := w.b.Flush(w.s.nc); err != nil {
			return nil, err
		}
	}
	h := w.b.Begin(o)
	h.SetUint32(iscsi.AtExpStatSN, w.s.expStatSN.Load())
	return h, nil
}

// encode adds an item to the batch.
func (w *writer) encode(i item) error {
	switch i.kind {
	case kindCommand:
		if !w.fetch(i) {
			return errors.New("a command ended before it was sent")
		}
		return w.command(i)
	case kindData:
		if !w.fetch(i) {
			return nil // it ended early
		}
		return w.dataOut(i.itt, i.ttt, i.data)
	case kindLogout:
		return w.small(iscsi.OpLogout, i, logoutTag)
	case kindPing:
		return w.small(iscsi.OpNopOut, item{sn: i.sn, ttt: iscsi.NoTag}, pingTag)
	}
	return w.small(iscsi.OpNopOut, i, iscsi.NoTag)
}

// small adds a PDU without data, for immediate delivery.
func (w *writer) small(o iscsi.Opcode, i item, itt uint32) error {
	h, err := w.begin(o)
	if err != nil {
		return err
	}
	h[0] |= iscsi.FlagImmediate
	h[1] = iscsi.FlagFinal // a logout closes the session: reason 0
	h.SetITT(itt)
	if o == iscsi.OpNopOut {
		h.SetUint32(iscsi.AtTTT, i.ttt)
	}
	h.SetUint32(iscsi.AtCmdSN, i.sn)
	w.b.End(nil)
	return nil
}

// fetch takes what is needed of an item's command, if that is still
// outstanding: the reader may end it at any time.
func (w *writer) fetch(i item) bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	c := w.s.table[i.itt]
	if c != i.c || c.seq != i.seq {
		return false
	}
	c.sent = true
	if i.kind == kindData {
		c.asked = false // the next may be asked for
	}
	w.cdb, w.flags, w.size = c.cdb, c.flags(), c.size
	w.all = w.all[:0]
	if !c.read {
		w.all = append(w.all, c.bufs...)
	}
	return true
}

// command adds a SCSI command with the data that it may send unasked.
func (w *writer) command(i item) error {
	h, err := w.begin(iscsi.OpCommand)
	if err != nil {
		return err
	}
	p := &w.s.params
	var now, unasked uint32
	if w.flags&iscsi.FlagWrite != 0 {
		unasked = min(p.firstBurst, w.size)
		if p.immediate {
			now = min(unasked, p.segment)
		}
		if p.initialR2T {
			unasked = now
		}
	}
	h[1] = w.flags | 1 // a simple task
	if unasked == now {
		h[1] |= iscsi.FlagFinal
	}
	h.SetLUN(w.s.lun)
	h.SetITT(i.itt)
	h.SetUint32(iscsi.AtExpectedLen, w.size)
	h.SetUint32(iscsi.AtCmdSN, i.sn)
	copy(h[iscsi.AtCDB:], w.cdb[:])
	w.scratch = ride.Slice(w.scratch[:0], w.all, block.Extent{Len: uint64(now)})
	w.b.EndPieces(w.scratch)
	if unasked == now {
		return nil
	}
	return w.dataOut(i.itt, iscsi.NoTag, block.Extent{Off: uint64(now), Len: uint64(unasked - now)})
}

// dataOut adds a sequence of data.
func (w *writer) dataOut(itt, ttt uint32, e block.Extent) error {
	segment := uint64(w.s.params.segment)
	for sn := uint32(0); e.Len > 0; sn++ {
		h, err := w.begin(iscsi.OpDataOut)
		if err != nil {
			return err
		}
		n := min(e.Len, segment)
		if n == e.Len {
			h[1] = iscsi.FlagFinal
		}
		h.SetLUN(w.s.lun)
		h.SetITT(itt)
		h.SetUint32(iscsi.AtTTT, ttt)
		h.SetUint32(iscsi.AtDataSN, sn)
		h.SetUint32(iscsi.AtOffset, uint32(e.Off))
		w.scratch = ride.Slice(w.scratch[:0], w.all, block.Extent{Off: e.Off, Len: n})
		w.b.EndPieces(w.scratch)
		e.Off, e.Len = e.Off+n, e.Len-n
	}
	return nil
}

// exec runs a command of the initiator's own that reads into data. When it is
// not answered, the session is given up.
func (s *session) exec(ctx context.Context, cdb scsi.CDB, data []byte) (outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	ch := make(chan outcome, 1)
	c := &command{cdb: cdb, size: uint32(len(data)), read: len(data) > 0, done: func(_ *command, o outcome) { ch <- o }}
	if len(data) > 0 {
		c.bufs = [][]byte{data}
	}
	if !s.submit(c) {
		return outcome{}, s.why()
	}
	select {
	case o := <-ch:
		o.got = c.got
		return o, nil
	case <-s.broken:
		return outcome{}, s.why()
	case <-ctx.Done():
		err := fmt.Errorf("no answer to command %#02x: %w", cdb[0], ctx.Err())
		s.breakOff(err)
		return outcome{}, err
	}
}
