package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"github.com/google/uuid"

	"github.com/cask-storage/cask/authority/kube"
	"github.com/cask-storage/cask/pkg/block"
	iscsitarget "github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/nvme"
	nvmetarget "github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// frontend serves the volume to hosts. A target has one: reservations and
// compare-and-write hold among the hosts of one frontend only.
type frontend interface {
	Serve(ctx context.Context, l net.Listener) error
	Recheck(ctx context.Context) error
}

// defaults of the frontends there are.
var frontends = map[string]struct{ addr, speaks string }{
	"nvme":  {":4420", "NVMe/TCP"},
	"iscsi": {":3260", "iSCSI"},
}

// listen makes the frontend's listener.
func (o options) listen() (net.Listener, error) {
	f := frontends[o.frontend]
	l, err := net.Listen("tcp", cmp.Or(o.addr, f.addr))
	if err != nil {
		return nil, fmt.Errorf("listen for %s hosts: %w", f.speaks, err)
	}
	return l, nil
}

// makeFrontend makes the frontend of a target that has acquired its epoch, and
// what has it serve the volume under the right name.
func (p parts) makeFrontend(ctx context.Context) (frontend, *sessions, error) {
	if p.frontend == "iscsi" {
		return p.iscsi(context.WithoutCancel(ctx))
	}
	return p.nvme()
}

// identity of the volume's content, the same for ever.
func (o options) identity() uuid.UUID {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte(volume.SubsystemNQN(o.volume)))
}

func (p parts) nvme() (frontend, *sessions, error) {
	s := newSessions(p.target, volume.SubsystemNQN(p.volume), nvmetarget.ErrReplaced)
	cfg := nvmetarget.Config{Logf: log.Printf, Locate: s.locate}
	if p.auth != "" {
		cfg.Authenticate = secrets(p.auth).dhchap
	}
	if p.access != nil {
		cfg.Admit = admitter(p.access, nvmetarget.ErrNotAdmitted)
	}
	front, err := nvmetarget.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	s.remove = front.RemoveSubsystem
	s.resized = func(name string) { front.NamespaceChanged(name, volume.NSID) }
	s.add = func(ctx context.Context, name string, d block.Device) error {
		state, err := p.reservations.load(ctx)
		if err != nil {
			return err
		}
		return front.AddSubsystem(nvmetarget.Subsystem{
			NQN: name, Serial: nvmetarget.SerialOf(s.name), // after a loss too: it is the same disk
			Namespaces: []nvmetarget.Namespace{{ID: volume.NSID, Device: d, UUID: nvme.UUID(p.identity()),
				Reservations: nvmetarget.Reservations{State: state, Keep: p.reservations.keep}}},
		})
	}
	return front, s, nil
}

// iscsi keeps reservations for as long as serving lasts, by ctx.
func (p parts) iscsi(serving context.Context) (frontend, *sessions, error) {
	s := newSessions(p.target, volume.NodeName(p.volume), iscsitarget.ErrReplaced)
	// In a cluster, initiators come by a Service.
	cfg := iscsitarget.Config{Logf: log.Printf, Locate: s.locate, AdvertiseNone: p.access != nil}
	if p.auth != "" {
		cfg.Auth = secrets(p.auth).chap
	}
	if p.access != nil {
		ask := admitter(p.access, iscsitarget.ErrNotAdmitted)
		cfg.Admit = func(ctx context.Context, initiator, _ string) error { return ask(ctx, initiator) }
	}
	front, err := iscsitarget.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	s.remove, s.resized = front.RemoveNode, front.Resized
	s.add = func(ctx context.Context, name string, d block.Device) error {
		state, err := p.reservations.load(ctx)
		if err != nil {
			return err
		}
		return front.AddNode(iscsitarget.Node{
			Name: name, Alias: p.volume,
			Units: []iscsitarget.Unit{{LUN: 0, Device: d, UUID: p.identity(), Keeper: unitKeeper{p.reservations, state, serving}}},
		})
	}
	return front, s, nil
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
