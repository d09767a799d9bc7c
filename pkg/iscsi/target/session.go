package target

import (
	"context"
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/scsi/lun"
)

// sessionKey identifies an I_T nexus.
type sessionKey struct {
	node, initiator string
	isid            [6]byte
}

// session is an initiator's login to a node, with its one connection.
type session struct {
	key     sessionKey
	tsih    uint16
	node    *node
	conn    *conn
	nexus   *lun.Nexus
	drained chan struct{} // closed when nothing of it is in a device any more
}

// sessionsOf lists the sessions of a node; nil is all.
func (t *Target) sessionsOf(nd *node) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*session
	for _, s := range t.sessions {
		if nd == nil || s.node == nd {
			out = append(out, s)
		}
	}
	return out
}

// open makes the session of a login that succeeded, after the one it
// reinstates has ended.
func (t *Target) open(ctx context.Context, c *conn, l *login) (*session, error) {
	key := sessionKey{node: l.node, initiator: l.initiator, isid: l.isid}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Limits.Displace)
	defer cancel()
	for {
		s, old, err := t.enter(c, key)
		if err != nil {
			return nil, err
		}
		if s != nil {
			// Asked again now that Recheck would find the session.
			if st := (env{c, ctx}).admit(key.initiator, key.node); st != iscsi.LoginSuccess {
				t.end(s)
				return nil, refuse(st, "initiator %s is not to use %s any more", key.initiator, key.node)
			}
			return s, nil
		}
		old.conn.leave(fmt.Errorf("initiator %s logged in again", key.initiator))
		select {
		case <-old.drained:
		case <-ctx.Done():
			return nil, refuse(iscsi.LoginUnavailable, "the session that is reinstated does not end: %v", ctx.Err())
		}
	}
}

// enter registers a session, or returns the one in its way.
func (t *Target) enter(c *conn, key sessionKey) (s, old *session, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	nd := t.nodes[key.node]
	if nd == nil {
		return nil, nil, refuse(iscsi.LoginRemoved, "node %q was removed", key.node)
	}
	if old := t.sessions[key]; old != nil {
		return nil, old, nil
	}
	n := 0
	for _, s := range t.sessions {
		if s.node == nd {
			n++
		}
	}
	if n >= t.cfg.Limits.Sessions {
		return nil, nil, refuse(iscsi.LoginNoResources, "%d sessions are open, the limit", n)
	}
	s = &session{key: key, tsih: t.tsihLocked(), node: nd, conn: c, drained: make(chan struct{})}
	s.nexus = nd.units.Attach(fmt.Sprintf("%s,i,0x%x", key.initiator, key.isid[:]))
	t.sessions[key] = s
	return s, nil, nil
}

// tsihLocked picks a session handle that is not in use.
func (t *Target) tsihLocked() uint16 {
	for {
		t.lastTSIH++
		if t.lastTSIH != 0 && !t.takenLocked(t.lastTSIH) {
			return t.lastTSIH
		}
	}
}

func (t *Target) takenLocked(h uint16) bool {
	for _, s := range t.sessions {
		if s.tsih == h {
			return true
		}
	}
	return false
}

// end removes a session whose tasks have completed.
func (t *Target) end(s *session) {
	s.nexus.Detach()
	t.mu.Lock()
	delete(t.sessions, s.key)
	t.mu.Unlock()
	close(s.drained)
}

// env is what the login of a connection asks.
type env struct {
	c   *conn
	ctx context.Context
}

func (e env) admit(initiator, name string) iscsi.LoginStatus {
	t := e.c.t
	if st := e.locate(name); st != iscsi.LoginSuccess {
		return st
	}
	if t.lookup(name) == nil {
		return iscsi.LoginNotFound
	}
	err := t.cfg.Admit(e.ctx, initiator, name)
	if err == nil {
		return iscsi.LoginSuccess
	}
	t.cfg.Logf("iscsi target: initiator %s from %v: %v", initiator, e.c.nc.RemoteAddr(), err)
	if errors.Is(err, ErrNotAdmitted) {
		return iscsi.LoginNotAuthorized
	}
	return iscsi.LoginUnavailable
}

// locate asks whether the node is to be had here.
func (e env) locate(name string) iscsi.LoginStatus {
	t := e.c.t
	if t.cfg.Locate == nil {
		return iscsi.LoginSuccess
	}
	ctx, cancel := context.WithTimeout(e.ctx, t.cfg.Limits.Handshake)
	defer cancel()
	err := t.cfg.Locate(ctx, name)
	switch {
	case err == nil:
		return iscsi.LoginSuccess
	case errors.Is(err, ErrReplaced):
		t.cfg.Logf("iscsi target: initiator from %v: %v", e.c.nc.RemoteAddr(), err)
		return iscsi.LoginRemoved
	}
	return iscsi.LoginUnavailable
}

func (e env) credentials(initiator, name string) (*Auth, error) {
	return e.c.t.cfg.Auth(initiator, name)
}

func (e env) alias(name string) string {
	if nd := e.c.t.lookup(name); nd != nil {
		return nd.alias
	}
	return ""
}

func (e env) tsih(h uint16) iscsi.LoginStatus {
	e.c.t.mu.Lock()
	defer e.c.t.mu.Unlock()
	if e.c.t.takenLocked(h) {
		return iscsi.LoginTooMany
	}
	return iscsi.LoginNoSession
}

// abortSpec says which commands to abort.
type abortSpec struct {
	lun scsi.LUN
	all bool // of every LUN
}

func (a abortSpec) matches(cmd *command) bool { return a.all || cmd.lun == a.lun }
