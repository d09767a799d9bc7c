//go:build linux

package node

import (
	"context"
	"time"
)

// lookInterval is how often an unmount that takes long is looked after.
const lookInterval = time.Second

// unmounting is a staging mount to take away.
type unmounting struct {
	volume, path string
	owner        func(ctx context.Context, volume string) (hostNQN string, err error)
}

// unmount takes a staging mount away. It waits for a target that is away, for
// there may be writes to flush; but when the volume was given to another host
// meanwhile, those can never be written, and are failed so that the unmount
// ends.
func (s *Server) unmount(ctx context.Context, u unmounting) error {
	// The unmount goes on when the caller has lost patience, and so does this.
	ctx = context.WithoutCancel(ctx)
	if err := s.letGo(ctx, u); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.mounts.Remove(u.path) }() // waited for below
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return unmountError(u.volume, err)
			}
			return nil
		case <-tick.C:
			if err := s.letGo(ctx, u); err != nil {
				s.opt.Log.Warn("an unmount waits", "volume", u.volume, "err", err)
			}
		}
	}
}

// letGo fails what is in flight if the attachment is not connected and is not
// the volume's any more.
func (s *Server) letGo(ctx context.Context, u unmounting) error {
	info, attached, err := s.opt.Attacher.Get(ctx, u.volume)
	if err != nil {
		return fromAgent(err, u.volume)
	}
	if !attached || info.Link.Connected || u.owner == nil {
		return nil
	}
	owner, err := u.owner(ctx, u.volume)
	if err != nil {
		s.opt.Log.Warn("not known who the volume belongs to; waiting for its target", "volume", u.volume, "err", err)
		return nil
	}
	if owner == info.Spec.HostNQN {
		return nil
	}
	return s.giveUp(ctx, info, owner)
}
