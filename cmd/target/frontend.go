package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"github.com/google/uuid"

	"github.com/cask-storage/cask/authority/kube"
	iscsitarget "github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/nvme"
	nvmetarget "github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// frontend serves the volume to hosts. A target has one: reservations and
// compare-and-write are atomic among the hosts of one frontend only.
type frontend interface {
	Serve(ctx context.Context, l net.Listener) error
	Recheck(ctx context.Context) error
}

// listenFrontend makes the frontend and its listener.
func (o options) listenFrontend(t *target.Target, a access) (frontend, net.Listener, error) {
	var f frontend
	var err error
	addr, speaks := ":4420", "NVMe/TCP"
	switch o.frontend {
	case "nvme":
		f, err = o.nvme(t, a)
	case "iscsi":
		addr, speaks = ":3260", "iSCSI"
		f, err = o.iscsi(t, a)
	default:
		err = fmt.Errorf("--frontend %q is neither nvme nor iscsi", o.frontend)
	}
	if err != nil {
		return nil, nil, err
	}
	if o.listen != "" {
		addr = o.listen
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for %s hosts: %w", speaks, err)
	}
	return f, l, nil
}

// identity of the volume's content, the same for ever.
func (o options) identity() uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(volume.SubsystemNQN(o.volume)))
}

func (o options) nvme(t *target.Target, a access) (frontend, error) {
	cfg := nvmetarget.Config{Logf: log.Printf}
	if a != nil {
		cfg.Admit = admitter(a, nvmetarget.ErrNotAdmitted)
	}
	front, err := nvmetarget.New(cfg)
	if err != nil {
		return nil, err
	}
	return front, front.AddSubsystem(nvmetarget.Subsystem{
		NQN:        volume.SubsystemNQN(o.volume),
		Namespaces: []nvmetarget.Namespace{{ID: volume.NSID, Device: t.Device(), UUID: nvme.UUID(o.identity())}},
	})
}

func (o options) iscsi(t *target.Target, a access) (frontend, error) {
	cfg := iscsitarget.Config{Logf: log.Printf}
	if a != nil {
		ask := admitter(a, iscsitarget.ErrNotAdmitted)
		cfg.Admit = func(ctx context.Context, initiator, _ string) error { return ask(ctx, initiator) }
	}
	front, err := iscsitarget.New(cfg)
	if err != nil {
		return nil, err
	}
	return front, front.AddNode(iscsitarget.Node{
		Name: volume.NodeName(o.volume), Alias: o.volume,
		Units: []iscsitarget.Unit{{LUN: 0, Device: t.Device(), UUID: o.identity()}},
	})
}

// admitter tells the frontend which of the cluster's answers are refusals: the
// others, such as an API server that is away, are a reason to ask again.
func admitter(a target.Access, refusal error) func(context.Context, string) error {
	return func(ctx context.Context, host string) error {
		err := a.Admit(ctx, host)
		if errors.Is(err, kube.ErrNotAdmitted) {
			return fmt.Errorf("%w: %w", refusal, err)
		}
		return err
	}
}
