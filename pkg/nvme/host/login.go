package host

import (
	"context"
	"fmt"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// login authenticates on a queue when the controller asks for it in the result
// of the Connect, or when it is to prove itself.
func (a *association) login(ctx context.Context, q *qpair, connected uint64) error {
	s := a.cfg.Secrets
	switch {
	case connected&nvme.ConnectAuthRequired != 0 && s.Host == "":
		return fmt.Errorf("%w: %s asks host %s to authenticate: give it a secret", dhchap.ErrFailed, a.cfg.SubsystemNQN, a.cfg.HostNQN)
	case connected&nvme.ConnectAuthRequired == 0 && s.Controller == "":
		return nil
	case connected&nvme.ConnectAuthRequired == 0:
		return fmt.Errorf("%s does not authenticate, but was given a secret to prove itself with: set one at the target or remove it here", a.cfg.SubsystemNQN)
	}
	h, err := dhchap.NewHost(dhchap.Names{Host: a.cfg.HostNQN, Subsystem: a.cfg.SubsystemNQN}, s)
	if err != nil {
		return err
	}
	out, err := h.Next(nil)
	for {
		if out != nil {
			if _, failed := a.security(ctx, q, nvme.FAuthSend, out); failed != nil {
				return failed
			}
		}
		if err != nil || out == nil || h.Proven() {
			return err
		}
		in, failed := a.security(ctx, q, nvme.FAuthReceive, make([]byte, dhchap.MaxMessage))
		if failed != nil {
			return failed
		}
		out, err = h.Next(in)
	}
}

// security runs an Authentication Send or Receive.
func (a *association) security(ctx context.Context, q *qpair, t nvme.FType, b []byte) ([]byte, error) {
	c := adminCommand{data: b, read: t == nvme.FAuthReceive}
	c.sqe.SetSecurity(t, nvme.SecurityParams{Protocol: dhchap.SecurityProtocol, Specific0: 1, Specific1: 1, Len: uint32(len(b))})
	result, s, err := a.exec(ctx, q, c)
	switch {
	case err != nil:
		return nil, fmt.Errorf("authenticate: %w", err)
	case !s.OK():
		return nil, &statusError{what: "authenticate", status: s, result: result}
	}
	return b, nil
}
