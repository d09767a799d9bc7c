package target

import (
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// writer is the state of a connection's writing goroutine.
type writer struct {
	c      *conn
	batch  *iscsi.Batch
	statSN uint32
	window [2]uint32  // ExpCmdSN, MaxCmdSN
	sent   []*command // answered in the batch, not yet flushed
}

// urgent is what the writer sends besides answers.
type urgent struct {
	ping    bool
	bye     iscsi.AsyncEvent
	rejects []*iscsi.Error
}

// write sends what completes until the reader says quit, then flushes what is
// left. After an error it closes the socket and drops the rest.
func (c *conn) write() {
	defer close(c.ended)
	w := &writer{c: c, batch: iscsi.NewBatch(), statSN: c.statSN}
	w.batch.Digests = c.params.digests
	var cmds []*command
	for quit := false; !quit; {
		select {
		case <-c.wake:
		case <-c.quit:
			quit = true
		}
		for {
			var u urgent
			cmds, u = c.takeOut(cmds)
			if len(cmds) == 0 && !u.any() {
				break
			}
			if err := w.send(cmds, u); err != nil {
				c.stop()
				c.Abort()
				<-c.quit
				return
			}
		}
		w.startPending()
	}
	c.stop()
}

func (u urgent) any() bool { return u.ping || u.bye != 0 || len(u.rejects) > 0 }

// takeOut swaps the queue of commands to send for an empty one.
func (c *conn) takeOut(spare []*command) ([]*command, urgent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(spare)
	out := c.out
	c.out = spare[:0]
	u := urgent{ping: c.ping, bye: c.bye, rejects: c.rejects}
	c.ping, c.bye, c.rejects = false, 0, nil
	return out, u
}

// stop makes the connection drop completions from now on.
func (c *conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	c.out = nil
}

func (w *writer) send(cmds []*command, u urgent) error {
	for _, r := range u.rejects {
		w.reject(r)
		if err := w.makeRoom(); err != nil {
			return err
		}
	}
	for _, cmd := range cmds {
		if cmd.r2t {
			w.askFor(cmd)
		} else {
			w.forget(cmd)
			if err := w.answer(cmd); err != nil {
				return err
			}
			w.sent = append(w.sent, cmd)
		}
		if err := w.makeRoom(); err != nil {
			return err
		}
	}
	if err := w.sendUrgent(u); err != nil {
		return err
	}
	return w.flush()
}

// makeRoom writes the batch when it is full.
func (w *writer) makeRoom() error {
	if !w.batch.Full() {
		return nil
	}
	return w.write()
}

func (w *writer) write() error {
	c := w.c
	c.flushing.Store(c.t.now.Load())
	err := w.batch.Flush(c.nc)
	c.flushing.Store(0)
	return err
}

// forget takes an answered command out of the window, so that its answer tells
// of the place that became free.
func (w *writer) forget(cmd *command) {
	c := w.c
	c.mu.Lock()
	c.forgetLocked(cmd)
	w.windowLocked()
	c.mu.Unlock()
}

func (w *writer) windowLocked() {
	c := w.c
	exp := uint32(c.expCmdSN)
	w.window = [2]uint32{exp, exp + uint32(c.t.cfg.Limits.QueueDepth-c.busy) - 1}
}

// header begins a PDU with the sequence numbers every one of ours carries.
func (w *writer) header(o iscsi.Opcode) *iscsi.Header {
	h := w.batch.Begin(o)
	h[1] = iscsi.FlagFinal
	h.SetUint32(iscsi.AtStatSN, w.statSN)
	h.SetUint32(iscsi.AtExpCmdSN, w.window[0])
	h.SetUint32(iscsi.AtMaxCmdSN, w.window[1])
	return h
}

// status begins a PDU that counts in StatSN.
func (w *writer) status(o iscsi.Opcode, itt uint32) *iscsi.Header {
	h := w.header(o)
	h.SetITT(itt)
	w.statSN++
	return h
}

// askFor adds an R2T.
func (w *writer) askFor(cmd *command) {
	c := w.c
	c.mu.Lock()
	w.windowLocked()
	cmd.r2t = false
	aborted := cmd.aborted
	if aborted {
		c.dropLocked(cmd)
	}
	// Data may come from here on, so the fields are read before.
	lun, itt, tag, sn, got, burst := cmd.lun, cmd.itt, cmd.tag(), cmd.r2tSN, cmd.got, cmd.burst
	cmd.r2tSN++
	c.mu.Unlock()
	if aborted {
		return
	}
	h := w.header(iscsi.OpR2T)
	h.SetLUN(lun.Encode())
	h.SetITT(itt)
	h.SetUint32(iscsi.AtTTT, tag)
	h.SetUint32(iscsi.AtDataSN, sn)
	h.SetUint32(iscsi.AtOffset, got)
	h.SetUint32(iscsi.AtLength, burst-got)
	w.batch.End(nil)
}

// answer adds the response of a command.
func (w *writer) answer(cmd *command) error {
	switch cmd.op {
	case iscsi.OpCommand:
		return w.outcome(cmd)
	case iscsi.OpTask:
		w.status(iscsi.OpTaskResponse, cmd.itt)[2] = cmd.reply
		w.batch.End(nil)
	case iscsi.OpLogout:
		w.status(iscsi.OpLogoutResp, cmd.itt)[2] = cmd.reply
		w.batch.End(nil)
	case iscsi.OpNopOut:
		h := w.status(iscsi.OpNopIn, cmd.itt)
		h.SetUint32(iscsi.AtTTT, iscsi.NoTag)
		w.batch.End(cmd.text)
	case iscsi.OpText:
		h := w.status(iscsi.OpTextResp, cmd.itt)
		if !cmd.final {
			h[1] = iscsi.FlagContinue
			if len(cmd.text) == 0 {
				h[1] = 0 // asks for the rest of the request
			}
		}
		h.SetUint32(iscsi.AtTTT, cmd.ttt)
		w.batch.End(cmd.text)
	}
	return nil
}

// residual is what was not moved: the flag that says which way, and how much.
func (cmd *command) residual() (flag uint8, n uint32) {
	want, have := uint32(len(cmd.task.In)), cmd.edtl
	switch {
	case cmd.flags&iscsi.FlagWrite != 0 && want > 0, cmd.flags&(iscsi.FlagRead|iscsi.FlagWrite) == 0:
		have = 0
	case cmd.flags&iscsi.FlagWrite != 0:
		want = cmd.need.Out
	}
	switch {
	case want > have:
		return iscsi.FlagOverflow, want - have
	case want < have:
		return iscsi.FlagUnderflow, have - want
	}
	return 0, 0
}

// outcome adds the data and the status of a SCSI command. The last Data-In
// carries a good status.
func (w *writer) outcome(cmd *command) error {
	flag, residual := cmd.residual()
	in := cmd.task.In
	if cmd.flags&iscsi.FlagRead == 0 {
		in = nil
	}
	in = in[:min(len(in), int(cmd.edtl))]
	if len(in) > 0 {
		h, err := w.dataIn(cmd, in)
		if err != nil {
			return err
		}
		h[1] |= iscsi.FlagStatus | flag
		h[3] = byte(scsi.Good)
		h.SetUint32(iscsi.AtStatSN, w.statSN)
		h.SetUint32(iscsi.AtResidual, residual)
		w.statSN++
		w.batch.End(in[h.Uint32(iscsi.AtOffset):])
		return nil
	}
	h := w.status(iscsi.OpResponse, cmd.itt)
	h[1] |= flag
	h[3] = byte(cmd.task.Status)
	h.SetUint32(iscsi.AtDataSN, cmd.r2tSN)
	h.SetUint32(iscsi.AtResidual, residual)
	if cmd.task.Status != scsi.CheckCondition {
		w.batch.End(nil)
		return nil
	}
	b := cmd.task.AppendSense(cmd.sense[:2])
	b[0], b[1] = 0, byte(len(b)-2)
	w.batch.End(b)
	return nil
}

// dataIn adds the Data-In PDUs of in and returns the header of the last one,
// which is not sealed yet. Only a command that succeeded has data.
func (w *writer) dataIn(cmd *command, in []byte) (*iscsi.Header, error) {
	p := &w.c.params
	total := uint32(len(in))
	for off, sn := uint32(0), uint32(0); ; sn++ {
		left := p.maxBurst - off%p.maxBurst
		n := min(p.segment, left, total-off)
		if err := w.makeRoom(); err != nil {
			return nil, err
		}
		h := w.header(iscsi.OpDataIn)
		if n < left && off+n < total {
			h[1] = 0
		}
		h.SetITT(cmd.itt)
		h.SetUint32(iscsi.AtTTT, iscsi.NoTag)
		h.SetUint32(iscsi.AtStatSN, 0)
		h.SetUint32(iscsi.AtDataSN, sn)
		h.SetUint32(iscsi.AtOffset, off)
		if off+n == total {
			return h, nil
		}
		w.batch.End(in[off:][:n])
		off += n
	}
}

// reject adds a Reject, with the header it is about.
func (w *writer) reject(r *iscsi.Error) {
	w.look()
	h := w.status(iscsi.OpReject, iscsi.NoTag)
	h[2] = byte(r.Reason)
	w.batch.End(r.Header[:])
}

// look refreshes the window.
func (w *writer) look() {
	w.c.mu.Lock()
	w.windowLocked()
	w.c.mu.Unlock()
}

// sendUrgent adds a ping and a farewell.
func (w *writer) sendUrgent(u urgent) error {
	w.look()
	if u.ping {
		h := w.header(iscsi.OpNopIn)
		h.SetITT(iscsi.NoTag)
		h.SetUint32(iscsi.AtTTT, pingTag)
		w.batch.End(nil)
		if err := w.makeRoom(); err != nil {
			return err
		}
	}
	if u.bye != 0 {
		h := w.status(iscsi.OpAsync, iscsi.NoTag)
		h[iscsi.AtAsyncEvent] = byte(u.bye)
		w.batch.End(nil)
	}
	return nil
}

// pingTag is the target transfer tag of our pings; one is outstanding at most.
const pingTag uint32 = 0x7fffffff

// flush writes the batch and frees what it held.
func (w *writer) flush() error {
	if err := w.write(); err != nil {
		return err
	}
	c := w.c
	c.mu.Lock()
	for i, cmd := range w.sent {
		c.recycleLocked(cmd)
		w.sent[i] = nil
	}
	w.sent = w.sent[:0]
	c.mu.Unlock()
	w.startPending()
	return nil
}

// startPending starts commands that waited for room.
func (w *writer) startPending() {
	for {
		cmd := w.c.admitPending()
		if cmd == nil {
			return
		}
		w.c.start(cmd)
	}
}
