package initiator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// connect logs in to the node of this name and looks at the unit.
func (c Config) connect(ctx context.Context, node string) (ride.Session, ride.Shape, error) {
	c.Target = node
	nc, l, err := dial(ctx, &c, node)
	if refusedWith(err, iscsi.LoginRemoved) {
		err = fmt.Errorf("%w (%w)", ride.ErrReplaced, err)
	}
	if err != nil {
		return nil, ride.Shape{}, err
	}
	s := start(&c, nc, l)
	s.unit, err = s.inquire(ctx)
	if err != nil {
		s.Close()
		return nil, ride.Shape{}, err
	}
	return s, s.unit, nil
}

// maxAttentions is how many unit attentions may be pending, which is one for
// each kind.
const maxAttentions = 16

// maxPage is the most of a page of vital data, bytes: the identity has names of up
// to 223 each.
const maxPage = 4096

// ask is exec that takes note of unit attentions and wants success.
func (s *session) ask(ctx context.Context, what string, cdb scsi.CDB, data []byte) ([]byte, error) {
	var o outcome
	for range maxAttentions {
		var err error
		if o, err = s.exec(ctx, cdb, data); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
		if o.status == scsi.Good {
			return data[:o.got], nil
		}
		if o.status != scsi.CheckCondition || o.sense.Key != scsi.UnitAttention {
			break
		}
	}
	return nil, fmt.Errorf("%s: %v, %v", what, o.status, o.sense)
}

// inquire reads the unit's shape and identity.
func (s *session) inquire(ctx context.Context) (ride.Shape, error) {
	if _, err := s.ask(ctx, "see whether the unit is ready", scsi.CDB{byte(scsi.TestUnitReady)}, nil); err != nil {
		return ride.Shape{}, err
	}
	page := func(p scsi.Page) scsi.CDB {
		return scsi.CDB{byte(scsi.Inquiry), 1, byte(p), maxPage >> 8, maxPage & 0xff}
	}
	b, err := s.ask(ctx, "read the unit's identity", page(scsi.PageIdentity), make([]byte, maxPage))
	if err != nil {
		return ride.Shape{}, err
	}
	id, err := scsi.DecodeUnitName(b)
	if err != nil {
		return ride.Shape{}, fmt.Errorf("the unit's identity: %w", err)
	}
	if b, err = s.ask(ctx, "read the unit's limits", page(scsi.PageBlockLimits), make([]byte, maxPage)); err != nil {
		return ride.Shape{}, err
	}
	limits, err := scsi.DecodeLimits(b)
	if err != nil {
		return ride.Shape{}, fmt.Errorf("the unit's limits: %w", err)
	}
	read := scsi.CDB{byte(scsi.ServiceIn16), scsi.SAReadCapacity16}
	read[13] = scsi.Capacity16Size
	if b, err = s.ask(ctx, "read the unit's capacity", read, make([]byte, scsi.Capacity16Size)); err != nil {
		return ride.Shape{}, err
	}
	c, err := scsi.DecodeCapacity(b)
	if err != nil {
		return ride.Shape{}, fmt.Errorf("the unit's capacity: %w", err)
	}
	return s.shape(c, limits, id)
}

func (s *session) shape(c scsi.Capacity, l scsi.Limits, id string) (ride.Shape, error) {
	bs := uint64(c.BlockSize)
	if bs < 512 || bs > 64<<10 || bs&(bs-1) != 0 || c.Exponent > 8 || c.Blocks == 0 || c.Blocks > 1<<62/bs {
		return ride.Shape{}, fmt.Errorf("%d blocks of %d bytes: not a usable unit", c.Blocks, bs)
	}
	most := s.cfg.MaxTransfer
	shape := ride.Shape{
		Name: s.cfg.Target, Identity: id, Split: most, SplitZeroes: maxZeroes,
		Geometry: block.Geometry{Size: c.Blocks * bs, BlockSize: c.BlockSize, PhysicalBlock: c.BlockSize << c.Exponent, MaxTransfer: most},
	}
	if n := uint64(l.MaxTransfer) * bs; n > 0 && n < uint64(most) {
		shape.Split = uint32(n)
	}
	if l.WriteSame > 0 && l.WriteSame < maxZeroes/bs {
		shape.SplitZeroes = l.WriteSame * bs
	}
	return shape, nil
}

// Watch sends pings and looks at the unit when it asks for that, until the
// session fails or ctx is done.
func (s *session) Watch(ctx context.Context, adopt func(ride.Shape) error) error {
	tick := time.NewTicker(s.cfg.Silence / 3)
	defer tick.Stop()
	heard, silent := s.heard.Load(), 0
	for {
		select {
		case <-ctx.Done():
			s.logout()
			return block.ErrClosed
		case <-s.broken:
			return s.why()
		case <-s.look:
			shape, err := s.inquire(ctx)
			if err == nil {
				err = adopt(shape)
			}
			if err != nil {
				return err
			}
		case <-tick.C:
			now := s.heard.Load()
			if now != heard {
				heard, silent = now, 0
				continue
			}
			if silent++; silent >= 3 {
				return fmt.Errorf("the target has said nothing for %v", s.cfg.Silence)
			}
			s.put(item{kind: kindPing})
		}
	}
}

// logout ends the session in order, and does not insist.
func (s *session) logout() {
	s.put(item{kind: kindLogout})
	t := time.NewTimer(logoutTime)
	defer t.Stop()
	select {
	case <-s.broken:
	case <-t.C:
	}
	if err := s.why(); err != nil && !errors.Is(err, errLoggedOut) {
		s.cfg.Logf("iscsi initiator: log out of %s: %v", s.cfg.Target, err)
	}
}
