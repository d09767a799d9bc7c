package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/nvme"
)

// replaced reports whether a Connect was refused for good because discovery
// has another subsystem to offer.
func replaced(err error) bool {
	var s *statusError
	return errors.As(err, &s) && s.status.Code() == nvme.ConnectRestart && s.status&nvme.DNR != 0
}

// maxDiscovery bounds the discovery log, in bytes.
const maxDiscovery = nvme.DiscoveryHeader + 64*nvme.DiscoveryRecord

// Discover lists the subsystems that a target offers.
func Discover(ctx context.Context, cfg Config) ([]string, error) {
	cfg.SubsystemNQN = nvme.DiscoveryNQN
	cfg.Secrets.Host, cfg.Secrets.Controller = "", ""
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	a := &association{cfg: &cfg, events: make(chan uint64, 1), failed: make(chan struct{})}
	defer a.Close()
	log, err := a.discover(ctx)
	if err != nil {
		return nil, fmt.Errorf("nvme host: discovery at %s: %w", cfg.Addr, err)
	}
	var out []string
	for _, e := range log.Entries {
		if e.Subtype == nvme.SubtypeNVM {
			out = append(out, e.SubNQN)
		}
	}
	return out, nil
}

func (a *association) discover(ctx context.Context) (nvme.DiscoveryLog, error) {
	var err error
	a.admin, err = openQpair(ctx, a.cfg, options{depth: adminDepth, inCapsule: adminInCapsule, fail: a.fail})
	if err != nil {
		return nvme.DiscoveryLog{}, err
	}
	if a.cntlid, err = a.connectQueue(ctx, a.admin, 0); err != nil {
		return nvme.DiscoveryLog{}, err
	}
	if _, err := a.enable(ctx); err != nil {
		return nvme.DiscoveryLog{}, err
	}
	c := adminCommand{data: make([]byte, maxDiscovery), read: true}
	c.sqe.SetLog(nvme.LogParams{LID: nvme.LogDiscovery, Len: maxDiscovery})
	if _, err := a.do(ctx, "read the discovery log", c); err != nil {
		return nvme.DiscoveryLog{}, err
	}
	return nvme.DecodeDiscoveryLog(c.data)
}

// Resolve is the name by which the subsystem that cfg names is to be connected
// now: its own, or that of the one that has taken its place, which begins with
// it and a colon.
func Resolve(ctx context.Context, cfg Config) (string, error) {
	offered, err := Discover(ctx, cfg)
	if err != nil {
		return "", err
	}
	nqn, err := ride.Successor(cfg.SubsystemNQN, offered)
	if err != nil {
		return "", fmt.Errorf("nvme host: at %s %w", cfg.Addr, err)
	}
	return nqn, nil
}
