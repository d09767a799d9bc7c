//go:build linux

// Package initiator connects attachments by Cask's own NVMe/TCP host or iSCSI
// initiator. It has no state; what it opens is the caller's.
package initiator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/attach/fabrics"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi/initiator"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/host"
)

const ioQueues = 1

// Opener connects to targets.
func Opener(log *slog.Logger) agent.Opener {
	return func(ctx context.Context, r agent.Request) (agent.Opened, error) {
		dev, err := open(ctx, r, func(format string, args ...any) { log.Info(fmt.Sprintf(format, args...)) })
		if notAdmitted(err) || errors.Is(err, dhchap.ErrFailed) {
			return agent.Opened{}, fmt.Errorf("%w: %w", agent.ErrRefused, err)
		}
		if err != nil {
			return agent.Opened{}, fmt.Errorf("%w: %w", agent.ErrUnreachable, err)
		}
		return agent.Opened{Device: dev, Link: func() agent.Link { return linkOf(dev.State()) }}, nil
	}
}

func open(ctx context.Context, r agent.Request, logf func(string, ...any)) (*ride.Device, error) {
	s := r.Spec
	if s.Frontend == agent.FrontendISCSI {
		return initiator.Attach(ctx, initiator.Config{Addr: s.Address, Target: agent.IQN(s.NQN), Initiator: agent.IQN(s.HostNQN), Logf: logf})
	}
	cfg := configOf(s)
	cfg.Logf, cfg.Secrets = logf, r.Secrets
	return host.Attach(ctx, cfg)
}

func notAdmitted(err error) bool { return host.NotAdmitted(err) || initiator.NotAdmitted(err) }

func configOf(s agent.Spec) host.Config {
	return host.Config{
		Addr: s.Address, SubsystemNQN: s.NQN, HostNQN: s.HostNQN, NSID: nvme.NSID(s.NSID), Queues: ioQueues,
		HostID: nvme.UUID(fabrics.HostIDBytes(s.HostNQN)),
	}
}

// Resolve asks the target under which name a volume is to be connected now.
func Resolve(ctx context.Context, s agent.Spec) (nqn string, err error) {
	return host.Resolve(ctx, configOf(s))
}

func linkOf(s ride.State) agent.Link {
	l := agent.Link{Connected: s.Connected, Since: s.Since}
	if !s.Connected && s.LastError != nil {
		l.Message, l.Refused, l.Lost = s.LastError.Error(), notAdmitted(s.LastError), s.Replaced
	}
	return l
}
