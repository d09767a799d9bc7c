package target

import (
	"context"
	"net"
	"time"

	"github.com/cask-storage/cask/pkg/accept"
)

// Serve accepts connections from ln until ctx is done or the Target is closed,
// which it answers with nil; then it closes ln and every connection it
// accepted, and waits for them.
func (t *Target) Serve(ctx context.Context, ln net.Listener) error {
	return t.conns.Serve(ctx, ln, accept.Handler[*conn]{
		Open: func(nc net.Conn) *conn { return newConn(t, nc) },
		Run:  func(ctx context.Context, c *conn) { c.serve(ctx) },
		Tick: t.enforce,
	})
}

// since is the time since a moment of clock.
func (t *Target) since(now time.Time, then int64) time.Duration {
	return time.Duration(t.clock.At(now) - then)
}

// enforce advances the clock, pings what is silent and closes what is silent
// or stalled for too long.
func (t *Target) enforce(now time.Time, open []*conn) {
	t.now.Store(t.clock.At(now))
	for _, c := range open {
		if then := c.flushing.Load(); then != 0 && t.since(now, then) > t.cfg.Limits.WriteStall {
			t.cfg.Logf("iscsi target: %v does not read its answers: closing", c.nc.RemoteAddr())
			c.Abort()
			continue
		}
		c.watchPing(now)
	}
}
