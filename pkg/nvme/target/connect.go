package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
)

// fabrics runs a Fabrics command. An error ends the connection.
func (c *conn) fabrics(cmd *command) error {
	sqe := &cmd.sqe
	if sqe.FType() == nvme.FConnect {
		return c.connect(cmd)
	}
	ctrl := c.ctrl
	switch {
	case ctrl != nil && (sqe.FType() == nvme.FAuthSend || sqe.FType() == nvme.FAuthReceive):
		return c.authenticate(cmd)
	case ctrl == nil:
		cmd.fail(nvme.CommandSequenceError | nvme.DNR)
	case c.qid != 0:
		cmd.fail(nvme.InvalidOpcode | nvme.DNR)
	case sqe.FType() == nvme.FPropertyGet:
		ctrl.settle(c)
		cmd.result, cmd.status = ctrl.propertyGet(sqe.Property())
	case sqe.FType() == nvme.FPropertySet:
		cmd.fail(ctrl.propertySet(sqe.Property()))
		ctrl.settle(c)
	default:
		cmd.fail(nvme.InvalidField | nvme.DNR)
	}
	c.complete(cmd)
	return nil
}

// refuse answers a Connect whose parameter at the offset is invalid.
func (c *conn) refuse(cmd *command, e nvme.ConnectInvalid) error {
	cmd.result = e.Encode()
	c.complete(cmd.fail(nvme.ConnectInvalidParam | nvme.DNR))
	return nil
}

// connect runs a Connect. The reader calls it, and may wait here: nothing else
// happens on a connection before its Connect is answered.
func (c *conn) connect(cmd *command) error {
	p := cmd.sqe.ConnectParams()
	if c.ctrl != nil {
		c.complete(cmd.fail(nvme.CommandSequenceError | nvme.DNR))
		return nil
	}
	d, err := nvme.DecodeConnectData(cmd.data())
	if err != nil {
		return fmt.Errorf("connect data: %w", err) // its length was checked
	}
	if nvme.CheckNQN(d.HostNQN) != nil {
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffHostNQN, InData: true})
	}
	if s := c.locate(d); !s.OK() {
		c.complete(cmd.fail(s))
		return nil
	}
	sub := c.t.lookup(d.SubNQN)
	switch {
	case p.Format != 0:
		c.complete(cmd.fail(nvme.ConnectIncompatible | nvme.DNR))
		return nil
	case sub == nil:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffSubNQN, InData: true})
	case p.QueueDepth < 2:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffSQSize})
	}
	if p.QID == 0 {
		return c.connectAdmin(cmd, sub, d)
	}
	return c.connectIO(cmd, sub, d)
}

// locate asks whether the subsystem is to be had here. Discovery always is.
func (c *conn) locate(d nvme.ConnectData) nvme.Status {
	if c.t.cfg.Locate == nil || d.SubNQN == nvme.DiscoveryNQN {
		return nvme.Success
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.t.cfg.Limits.Handshake)
	defer cancel()
	err := c.t.cfg.Locate(ctx, d.SubNQN)
	switch {
	case err == nil:
		return nvme.Success
	case errors.Is(err, ErrReplaced):
		c.t.cfg.Logf("nvme target: host %s from %v refused: %v", d.HostNQN, c.nc.RemoteAddr(), err)
		return nvme.ConnectRestart | nvme.DNR
	}
	return nvme.ConnectBusy
}

// connectAdmin makes a new association.
func (c *conn) connectAdmin(cmd *command, sub *subsystem, d nvme.ConnectData) error {
	p := cmd.sqe.ConnectParams()
	switch {
	case d.CNTLID != nvme.CNTLIDDynamic:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffCNTLID, InData: true})
	case p.QueueDepth > adminDepth:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffSQSize})
	case d.HostID.IsZero():
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffHostID, InData: true})
	}
	// Registered first and then admitted, so that Recheck either sees the
	// association or precedes its Admit.
	ctrl := sub.add(c, d)
	if ctrl == nil {
		c.complete(cmd.fail(nvme.ConnectBusy))
		return nil
	}
	c.own(ctrl, p)
	s := c.admitHost(ctrl)
	if s.OK() {
		s = c.requireLogin(ctrl)
	}
	if !s.OK() {
		return c.turnAway(cmd, s)
	}
	if c.login == nil {
		if err := c.displace(); err != nil {
			return err
		}
	}
	ctrl.mu.Lock()
	ctrl.keepAlive = roundKeepAlive(p.KATO)
	ctrl.mu.Unlock()
	if err := c.accept(cmd); err != nil {
		ctrl.kill(err)
		return err
	}
	return nil
}

// displace ends the host's older associations. In discovery nothing is written
// that must not be repeated, and hosts ask while they have a persistent one.
func (c *conn) displace() error {
	if c.ctrl.sub.isDiscovery {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.t.cfg.Limits.Displace)
	defer cancel()
	err := c.ctrl.sub.displace(ctx, c.ctrl)
	if err != nil {
		c.ctrl.kill(err)
	}
	return err
}

// admitHost asks whether the host may connect. Discovery is open to all.
func (c *conn) admitHost(ctrl *controller) nvme.Status {
	if ctrl.sub.isDiscovery {
		return nvme.Success
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.t.cfg.Limits.Handshake)
	defer cancel()
	err := c.t.cfg.Admit(ctx, ctrl.hostNQN)
	switch {
	case err == nil:
		return nvme.Success
	case errors.Is(err, ErrNotAdmitted):
		c.t.cfg.Logf("nvme target: host %s from %v refused: %v", ctrl.hostNQN, c.nc.RemoteAddr(), err)
		return nvme.ConnectInvalidHost | nvme.DNR
	}
	c.t.cfg.Logf("nvme target: host %s from %v is to try again: %v", ctrl.hostNQN, c.nc.RemoteAddr(), err)
	return nvme.ConnectBusy
}

// turnAway answers a refused Connect, and gives the host the time of the
// handshake's deadline to close. The association is gone at once.
func (c *conn) turnAway(cmd *command, s nvme.Status) error {
	ctrl := c.ctrl
	c.mu.Lock()
	c.ctrl = nil
	c.mu.Unlock()
	ctrl.mu.Lock()
	delete(ctrl.conns, 0) // kill must not close this connection
	ctrl.mu.Unlock()
	ctrl.kill(fmt.Errorf("refused: %v", s))
	ctrl.detach(c)
	c.complete(cmd.fail(s))
	return nil
}

// connectIO adds an I/O queue to an association.
func (c *conn) connectIO(cmd *command, sub *subsystem, d nvme.ConnectData) error {
	p := cmd.sqe.ConnectParams()
	ctrl := sub.controller(d.CNTLID)
	if ctrl == nil || ctrl.sub.isDiscovery {
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffCNTLID, InData: true})
	}
	ctrl.mu.Lock()
	limit := ctrl.queueLimit
	ctrl.mu.Unlock()
	switch {
	case ctrl.hostNQN != d.HostNQN:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffHostNQN, InData: true})
	case ctrl.hostID != d.HostID:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffHostID, InData: true})
	case int(p.QID) > limit:
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffQID})
	case int(p.QueueDepth) > ctrl.depthLimit():
		return c.refuse(cmd, nvme.ConnectInvalid{Offset: nvme.ConnectOffSQSize})
	case !ctrl.ready():
		c.complete(cmd.fail(nvme.CommandSequenceError | nvme.DNR))
		return nil
	}
	if s := c.requireLogin(ctrl); !s.OK() {
		c.complete(cmd.fail(s))
		return nil
	}
	c.qid = p.QID
	if s := ctrl.attach(c, p.QID); !s.OK() {
		c.qid = 0
		c.complete(cmd.fail(s))
		return nil
	}
	c.own(ctrl, p)
	c.rd.SetMaxCapsule(maxInCapsule)
	return c.accept(cmd)
}

// own makes c a connection of ctrl.
func (c *conn) own(ctrl *controller, p nvme.ConnectParams) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctrl, c.depth, c.noSQFlow = ctrl, int(p.QueueDepth), p.NoSQFlow
}

// accept answers a Connect with success and, unless the host has to
// authenticate yet, lifts the handshake's deadline.
func (c *conn) accept(cmd *command) error {
	cmd.result = uint64(c.ctrl.id)
	if c.login != nil {
		cmd.result |= nvme.ConnectAuthRequired
	} else if err := c.established(); err != nil {
		return err
	}
	c.complete(cmd)
	return nil
}

// established says that the connection is a queue from now on.
func (c *conn) established() error {
	c.connected.Store(true)
	if ctrl := c.ctrl; c.qid == 0 && !ctrl.sub.isDiscovery {
		c.t.cfg.Logf("nvme target: host %s connected from %v: association %d with %s", ctrl.hostNQN, c.nc.RemoteAddr(), ctrl.id, ctrl.sub.NQN)
	}
	return c.nc.SetReadDeadline(time.Time{})
}

// roundKeepAlive converts a KATO; 0 stays none.
func roundKeepAlive(ms uint32) time.Duration {
	return min(time.Duration(ms)*time.Millisecond, maxKeepAlive)
}
