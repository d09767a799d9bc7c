package target

import (
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// writer is the state of a connection's writing goroutine.
type writer struct {
	c       *conn
	batch   *tcp.Batch
	sqhead  uint16
	sent    []*command // answered in the batch, not yet flushed
	started []*command
}

// write sends what completes until the reader says quit, then flushes what is
// left. After an error it closes the socket and drops the rest.
func (c *conn) write() {
	defer close(c.ended)
	w := &writer{c: c, batch: tcp.NewBatch()}
	w.batch.Digests, w.batch.Align = c.digests, c.align
	var cmds []*command
	for quit := false; !quit; {
		select {
		case <-c.wake:
		case <-c.quit:
			quit = true
		}
		for {
			cmds = c.takeOut(cmds)
			if len(cmds) == 0 {
				break
			}
			if err := w.send(cmds); err != nil {
				c.stop()
				c.Abort()
				<-c.quit
				return
			}
		}
	}
	c.stop()
}

// takeOut swaps the queue of commands to send for an empty one.
func (c *conn) takeOut(spare []*command) []*command {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(spare)
	out := c.out
	c.out = spare[:0]
	return out
}

// stop makes the connection drop completions from now on.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	c.out, c.pending = nil, nil
}

func (w *writer) send(cmds []*command) error {
	for _, cmd := range cmds {
		if cmd.action == sendR2T {
			w.batch.R2T(tcp.Transfer{CCCID: uint16(cmd.sqe.CID()), TTAG: cmd.tag, Len: cmd.length})
		} else {
			w.answer(cmd)
			w.sent = append(w.sent, cmd)
		}
		if w.batch.Full() {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

// answer adds a command's data and completion to the batch.
func (w *writer) answer(cmd *command) {
	c := w.c
	c.mu.Lock()
	depth, ctrl := uint16(c.depth), c.ctrl
	c.busy--
	c.mu.Unlock()
	w.sqhead++
	if w.sqhead >= depth {
		w.sqhead = 0
	}
	if !cmd.status.OK() && ctrl != nil {
		ctrl.noteError(cmd)
	}
	if cmd.dir == toHost && cmd.buf != nil && cmd.status.OK() {
		flags := tcp.FlagLast
		if c.noSQFlow && cmd.result == 0 {
			flags |= tcp.FlagSuccess
		}
		cmd.vec[0] = cmd.buf.B
		w.batch.C2HData(tcp.Transfer{CCCID: uint16(cmd.sqe.CID()), Len: uint32(len(cmd.buf.B))}, flags, cmd.vec[:])
		if flags&tcp.FlagSuccess != 0 {
			return
		}
	}
	var cqe nvme.Completion
	cqe.SetCID(cmd.sqe.CID())
	cqe.SetStatus(cmd.status)
	cqe.SetResult(cmd.result)
	cqe.SetSQHead(w.sqhead)
	if c.noSQFlow {
		cqe.SetSQHead(0xffff)
	}
	w.batch.Response((*[tcp.CQESize]byte)(&cqe))
}

// flush writes the batch, frees what it held and starts commands that waited
// for the room.
func (w *writer) flush() error {
	c := w.c
	c.flushing.Store(c.t.now.Load())
	err := w.batch.Flush(c.nc)
	c.flushing.Store(0)
	if err != nil {
		return err
	}
	for _, cmd := range w.sent {
		cmd.buf.Free()
		cmd.scratch.Free()
		cmd.buf, cmd.scratch = nil, nil
	}
	w.release()
	for i, cmd := range w.started {
		w.started[i] = nil
		if err := c.start(cmd); err != nil {
			return err
		}
	}
	w.started = w.started[:0]
	return nil
}

// release returns the slots and the room of what was sent, and moves what fits
// from pending to started.
func (w *writer) release() {
	c := w.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, cmd := range w.sent {
		if cmd.counts {
			c.bytes -= int(cmd.room)
			c.t.held.Add(-int64(cmd.room))
		}
		c.free = append(c.free, cmd)
		w.sent[i] = nil
	}
	w.sent = w.sent[:0]
	for len(c.pending) > 0 {
		cmd := c.pending[0]
		if !c.reserveLocked(cmd) {
			return
		}
		w.started = append(w.started, cmd)
		c.pending[0] = nil
		c.pending = c.pending[1:]
	}
}
