package target

import (
	"context"
	"errors"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// classifyFabrics decides the data of a Fabrics command.
func (c *conn) classifyFabrics(cmd *command) nvme.Status {
	sqe := &cmd.sqe
	t := sqe.FType()
	switch t {
	case nvme.FConnect:
		cmd.dir, cmd.length = fromHost, nvme.ConnectSize
		return nvme.Success
	case nvme.FAuthSend, nvme.FAuthReceive:
		p := sqe.Security()
		bad := p.Protocol != dhchap.SecurityProtocol || p.Specific0 != 1 || p.Specific1 != 1
		if bad || p.Len == 0 || p.Len > dhchap.MaxMessage || c.ctrl == nil || c.login == nil {
			return nvme.InvalidField | nvme.DNR
		}
		cmd.dir, cmd.length = fromHost, p.Len
		if t == nvme.FAuthReceive {
			cmd.dir = toHost
		}
		return nvme.Success
	}
	if c.login != nil && !c.login.Done() {
		return nvme.AuthRequired | nvme.DNR
	}
	return nvme.Success
}

// requireLogin finds out whether the host has to authenticate on this queue.
func (c *conn) requireLogin(ctrl *controller) nvme.Status {
	ask := c.t.cfg.Authenticate
	if ask == nil || ctrl.sub.isDiscovery {
		return nvme.Success
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.t.cfg.Limits.Handshake)
	defer cancel()
	secrets, err := ask(ctx, ctrl.hostNQN)
	switch {
	case errors.Is(err, ErrNotAdmitted):
		c.t.cfg.Logf("nvme target: host %s from %v refused: %v", ctrl.hostNQN, c.nc.RemoteAddr(), err)
		return nvme.ConnectInvalidHost | nvme.DNR
	case err != nil:
		c.t.cfg.Logf("nvme target: host %s from %v is to try again, its secrets are not to be had: %v", ctrl.hostNQN, c.nc.RemoteAddr(), err)
		return nvme.ConnectBusy
	case secrets.Host == "" && secrets.Controller == "":
		return nvme.Success
	}
	c.login, err = dhchap.NewController(dhchap.Names{Host: ctrl.hostNQN, Subsystem: ctrl.sub.NQN}, secrets)
	if err != nil {
		c.t.cfg.Logf("nvme target: host %s from %v refused, its secrets are wrong here: %v", ctrl.hostNQN, c.nc.RemoteAddr(), err)
		return nvme.ConnectInvalidHost | nvme.DNR
	}
	return nvme.Success
}

// authenticate takes a message of the host, or fetches one for it. A failed
// authentication ends the connection once the host knows why.
func (c *conn) authenticate(cmd *command) error {
	if cmd.sqe.FType() == nvme.FAuthSend {
		c.login.Receive(cmd.data())
		if err := c.login.Err(); err != nil {
			c.t.cfg.Logf("nvme target: host %s from %v is not authenticated: %v", c.ctrl.hostNQN, c.nc.RemoteAddr(), err)
		}
		return c.loggedIn(cmd)
	}
	clear(cmd.data())
	copy(cmd.data(), c.login.Send())
	return c.loggedIn(cmd)
}

// loggedIn answers a command that may have ended an authentication. Only a host
// that has authenticated displaces its older associations; one that failed gets
// the time to read why.
func (c *conn) loggedIn(cmd *command) error {
	switch {
	case c.login.Err() != nil:
		if err := c.nc.SetReadDeadline(time.Now().Add(lingerTime)); err != nil {
			return err
		}
	case c.login.Done() && !c.connected.Load():
		if c.qid == 0 {
			if err := c.displace(); err != nil {
				return err
			}
		}
		if err := c.established(); err != nil {
			return err
		}
	}
	c.complete(cmd)
	return nil
}
