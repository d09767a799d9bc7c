package target

import (
	"errors"
	"slices"

	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// answer says what the initiator of an aborted command hears of it.
type answer uint8

const (
	nothing     answer = iota // it aborts itself, or is gone
	taskAborted               // another aborts (TAS in the Control mode page)
)

// abortLocked ends a command that is not answered yet. When its task is
// running, the waiter is released when that has ended.
func (c *conn) abortLocked(cmd *command, w *waiter, a answer) {
	cmd.told = a == taskAborted
	switch cmd.state {
	case receiving:
		cmd.aborted = true
		c.forgetLocked(cmd)
		asking := cmd.r2t // the writer has it, unless it is still in out
		if i := slices.Index(c.out, cmd); i >= 0 {
			c.out = slices.Delete(c.out, i, i+1)
			asking = false
		}
		if !cmd.held && !asking {
			c.dropLocked(cmd)
		}
	case waiting:
		c.pending = slices.DeleteFunc(c.pending, func(o *command) bool { return o == cmd })
		cmd.room = 0
		c.forgetLocked(cmd)
		c.dropLocked(cmd)
	case running:
		cmd.aborted = true
		c.forgetLocked(cmd)
		cmd.task.Abort()
		if w != nil {
			w.left.Add(1)
			cmd.waiters = append(cmd.waiters, w)
		}
	case idle, answering:
	}
}

// abortMatching aborts commands of the connection; w waits for those that run.
// It returns how many there were.
func (c *conn) abortMatching(w *waiter, a answer, match func(*command) bool) int {
	defer c.signal() // there may be room for others now
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, cmd := range c.slots {
		if cmd.op == iscsi.OpCommand && cmd.state != idle && cmd.state != answering && !cmd.aborted && match(cmd) {
			c.abortLocked(cmd, w, a)
			n++
		} else if cmd.aborted && cmd.state == running && w != nil && match(cmd) {
			w.left.Add(1)
			cmd.waiters = append(cmd.waiters, w)
		}
	}
	return n
}

// abortAll ends everything when the connection does.
func (c *conn) abortAll() {
	c.mu.Lock()
	c.closing = true
	c.out = nil
	c.mu.Unlock()
	c.abortMatching(nil, nothing, func(*command) bool { return true })
}

// abortPreempted does the abort of a PREEMPT AND ABORT; the command is
// answered when the tasks have ended.
func (c *conn) abortPreempted(cmd *command) {
	w := newWaiter(func() { c.complete(cmd) })
	for _, s := range c.t.sessionsOf(c.sess.node) {
		if slices.Contains(cmd.task.Preempted, s.nexus) {
			s.conn.abortMatching(w, taskAborted, func(o *command) bool { return o.lun == cmd.lun })
		}
	}
	w.release()
}

// onTask executes a task management function. It is answered when the tasks it
// aborts have ended.
func (c *conn) onTask(p *iscsi.PDU) error {
	if c.sess == nil {
		return p.Fault(iscsi.ReasonProtocol, "%v in a discovery session", p.Opcode())
	}
	cmd, err := c.take(p)
	if cmd == nil {
		return err
	}
	w := newWaiter(func() { c.complete(cmd) })
	f := iscsi.TaskFunction(p.Flags() & iscsi.MaskReasonTask)
	cmd.reply = uint8(c.manage(p, f, w))
	w.release()
	return nil
}

// manage starts a function and returns its outcome.
//
//lint:dispatch one case for each function
func (c *conn) manage(p *iscsi.PDU, f iscsi.TaskFunction, w *waiter) iscsi.TaskResponse {
	units := c.sess.node.units
	l := scsi.DecodeLUN(p.LUN())
	switch f {
	case iscsi.AbortTask, iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LUNReset, iscsi.ClearACA:
		if !units.Has(l) {
			return iscsi.TaskNoLUN
		}
	}
	switch f {
	case iscsi.AbortTask:
		return c.abortOne(p, w)
	case iscsi.AbortTaskSet:
		c.abortMatching(w, nothing, func(o *command) bool { return o.lun == l })
	case iscsi.ClearTaskSet:
		c.abortEverywhere(w, abortSpec{lun: l})
	case iscsi.LUNReset:
		c.abortEverywhere(w, abortSpec{lun: l})
		units.Reset(l)
	case iscsi.TargetWarmReset, iscsi.TargetColdReset:
		c.abortEverywhere(w, abortSpec{all: true})
		units.ResetAll()
		if f == iscsi.TargetColdReset {
			c.dropOthers()
		}
	case iscsi.TaskReassign:
		return iscsi.TaskNoReassign
	default:
		return iscsi.TaskNotSupported
	}
	return iscsi.TaskComplete
}

// abortOne executes ABORT TASK. A task that has not come yet, but whose CmdSN
// is in the window, counts as aborted (RFC 7143 11.6.1).
func (c *conn) abortOne(p *iscsi.PDU, w *waiter) iscsi.TaskResponse {
	ref := p.Uint32(iscsi.AtReferenced)
	if c.abortMatching(w, nothing, func(o *command) bool { return o.itt == ref }) > 0 {
		return iscsi.TaskComplete
	}
	sn := iscsi.Serial(p.Uint32(iscsi.AtRefCmdSN))
	c.mu.Lock()
	defer c.mu.Unlock()
	if !sn.Before(c.expCmdSN) && sn.Before(iscsi.Serial(p.Uint32(iscsi.AtCmdSN))) {
		return iscsi.TaskComplete
	}
	return iscsi.TaskUnknown
}

// abortEverywhere aborts tasks of all initiators; the others are told by the
// status of those.
func (c *conn) abortEverywhere(w *waiter, a abortSpec) {
	for _, s := range c.t.sessionsOf(c.sess.node) {
		told := taskAborted
		if s == c.sess {
			told = nothing
		}
		s.conn.abortMatching(w, told, a.matches)
	}
}

// errColdReset ends the sessions of the other initiators.
var errColdReset = errors.New("an initiator asked for a cold reset")

// dropOthers ends all other sessions of the node; the one that asked gets its
// answer, and goes on.
func (c *conn) dropOthers() {
	for _, s := range c.t.sessionsOf(c.sess.node) {
		if s != c.sess {
			s.conn.leave(errColdReset)
		}
	}
}

// onLogout ends the session in good order: what runs is waited for.
func (c *conn) onLogout(p *iscsi.PDU) error {
	cmd, err := c.take(p)
	if cmd == nil {
		return err
	}
	const closeSession, closeConnection = 0, 1
	if r := p.Flags() & iscsi.MaskReasonTask; r != closeSession && r != closeConnection {
		cmd.reply = 2 // recovery is not supported
		c.complete(cmd)
		return nil
	}
	answered := make(chan struct{})
	w := newWaiter(func() { c.complete(cmd); close(answered) })
	c.abortMatching(w, nothing, func(*command) bool { return true })
	w.release()
	select {
	case <-answered:
	case <-c.ctx.Done():
	}
	return errLoggedOut
}

// onNop answers a ping, or takes the answer to ours.
func (c *conn) onNop(p *iscsi.PDU) error {
	if p.ITT() == iscsi.NoTag {
		return nil
	}
	cmd, err := c.take(p)
	if cmd == nil {
		return err
	}
	if n := min(p.DataLen(), maxPingData, c.params.segment); n > 0 {
		cmd.text = make([]byte, n)
		if err := c.rd.ReadData(cmd.text); err != nil {
			return err
		}
		if err := c.rd.EndData(); err != nil {
			return p.Fault(iscsi.ReasonDataDigest, "damaged ping data: %v", err)
		}
	}
	c.complete(cmd)
	return nil
}

// onText answers text requests: SendTargets, and the rest of an answer that
// did not fit.
func (c *conn) onText(p *iscsi.PDU) error {
	cmd, err := c.take(p)
	if cmd == nil {
		return err
	}
	data := make([]byte, min(p.DataLen(), maxText))
	if err := c.rd.ReadData(data); err != nil {
		return err
	}
	if err := c.rd.EndData(); err != nil {
		return p.Fault(iscsi.ReasonDataDigest, "damaged text: %v", err)
	}
	switch ttt := p.Uint32(iscsi.AtTTT); ttt {
	case iscsi.NoTag:
		c.text, c.gather = nil, nil // a new exchange ends the one before
	case c.textTTT:
	default:
		return p.Fault(iscsi.ReasonProtocol, "text with tag %#x, there is no such exchange", ttt)
	}
	if len(c.gather)+len(data) > maxText {
		return p.Fault(iscsi.ReasonNoResources, "more than %d bytes of text", maxText)
	}
	c.gather = append(c.gather, data...)
	if p.Flags()&iscsi.FlagContinue != 0 || !p.Final() && len(c.text) == 0 {
		return c.answerText(cmd, nil, 1)
	}
	in, err := iscsi.ParseText(c.gather)
	c.gather = nil
	if err != nil {
		return p.Fault(iscsi.ReasonProtocol, "%v", err)
	}
	if len(c.text) == 0 {
		c.text = c.sendTargets(in).Append(nil)
	}
	n := min(len(c.text), int(c.params.segment))
	piece := c.text[:n]
	c.text = c.text[n:]
	return c.answerText(cmd, piece, len(c.text))
}

// answerText sends a piece of a text response; more is what remains.
func (c *conn) answerText(cmd *command, piece []byte, more int) error {
	cmd.text, cmd.final = piece, more == 0
	if more > 0 {
		c.textTTT = cmd.tag() & 0x7fffffff
		cmd.ttt = c.textTTT
	}
	c.complete(cmd)
	return nil
}

// sendTargets answers the keys of a text request.
func (c *conn) sendTargets(in iscsi.Text) iscsi.Text {
	var out iscsi.Text
	for _, k := range in {
		if k.Key != "SendTargets" {
			out.Add(k.Key, notUnderstood)
			continue
		}
		for _, name := range c.t.names() {
			mine := c.sess != nil && c.sess.node.name == name
			if k.Value == name || k.Value == "" && mine || k.Value == "All" && c.sess == nil {
				out.Add("TargetName", name)
				if !c.t.cfg.AdvertiseNone {
					out.Add("TargetAddress", c.t.advertised(c.nc)+","+portalGroupText)
				}
			}
		}
	}
	return out
}

const portalGroupText = "1"
