package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cask-storage/cask/authority/kube"
	"github.com/cask-storage/cask/pkg/nvme"
	nvmetarget "github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// outside is what the target has around it: Kubernetes or a file.
type outside struct {
	authority volume.Authority
	reporter  target.Reporter // may be nil
	access    access          // may be nil: all hosts are admitted
}

// access decides about hosts and is told when those it no longer admits have
// been cut off.
type access interface {
	target.Access
	Run(ctx context.Context) error
	Settle(ctx context.Context, recheck func(context.Context) error) error
}

func (o options) outside() (outside, error) {
	if path, ok := strings.CutPrefix(o.authority, "file:"); ok {
		return outside{authority: target.FileAuthority{Path: path}}, nil
	}
	if o.authority == "kube" {
		return inCluster(o)
	}
	return outside{}, fmt.Errorf("--authority %q is neither kube nor file:PATH", o.authority)
}

func run(ctx context.Context, o options) error {
	out, err := o.outside()
	if err != nil {
		return err
	}
	t := target.New(target.Config{
		Volume: volume.Config{
			Instance: instance(), Level: quorum.Level(o.level), Replicas: o.ids(), Size: o.size, Volume: o.volume,
			AlwaysDurable: o.durability == "always", Timing: volume.DefaultTiming(),
		},
		Addresses: o.replicas, Authority: out.authority, Reporter: out.reporter, Logf: log.Printf,
	})
	front, l, err := o.frontend(t, out.access)
	if err != nil {
		return err
	}
	return o.serve(ctx, parts{t, front, l, out.access})
}

// instance names this run of the target.
func instance() string {
	host, _ := os.Hostname()
	if pod := os.Getenv("POD_NAME"); pod != "" {
		host = pod
	}
	return host + "/" + strings.ToLower(rand.Text()[:8])
}

func (o options) frontend(t *target.Target, a access) (*nvmetarget.Target, net.Listener, error) {
	cfg := nvmetarget.Config{Logf: log.Printf}
	if a != nil {
		cfg.Admit = admitter(a)
	}
	front, err := nvmetarget.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	err = front.AddSubsystem(nvmetarget.Subsystem{
		NQN: volume.SubsystemNQN(o.volume),
		Namespaces: []nvmetarget.Namespace{{ID: volume.NSID, Device: t.Device(),
			UUID: nvme.UUID(uuid.NewSHA1(uuid.NameSpaceURL, []byte(volume.SubsystemNQN(o.volume))))}},
	})
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for NVMe/TCP hosts: %w", err)
	}
	return front, l, nil
}

// admitter tells the frontend which of the cluster's answers are refusals: the
// others, such as an API server that is away, are a reason to ask again.
func admitter(a target.Access) func(context.Context, string) error {
	return func(ctx context.Context, hostNQN string) error {
		err := a.Admit(ctx, hostNQN)
		if errors.Is(err, kube.ErrNotAdmitted) {
			return fmt.Errorf("%w: %w", nvmetarget.ErrNotAdmitted, err)
		}
		return err
	}
}

// parts are what serve runs.
type parts struct {
	target *target.Target
	front  *nvmetarget.Target
	l      net.Listener
	access access
}

// serve runs everything until ctx ends or the target is superseded. The
// frontend ends first: what it has taken is finished, nothing new comes.
func (o options) serve(ctx context.Context, p parts) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	var wg sync.WaitGroup
	var frontErr, backErr error
	wg.Go(func() { // ends when the frontend has
		defer stopBack()
		defer cancel()
		frontErr = p.front.Serve(ctx, p.l)
	})
	wg.Go(func() { // ends with back, or superseded
		defer cancel()
		backErr = p.target.Run(back)
	})
	if p.access != nil {
		wg.Go(func() { follow(ctx, p.access) }) // ends with ctx
		wg.Go(func() { p.watchAccess(ctx) })    // likewise
	}
	if o.health != "" {
		wg.Go(func() { serveHealth(ctx, o.health, p.target.Handler()) }) // ends with ctx
	}
	wg.Wait()
	if backErr != nil {
		return backErr
	}
	return frontErr
}

// watchAccess cuts hosts off that may no longer use the volume, and says so.
func (p parts) watchAccess(ctx context.Context) {
	for ctx.Err() == nil {
		changed := p.access.Changed()
		if err := p.access.Settle(ctx, p.front.Recheck); err != nil && ctx.Err() == nil {
			log.Printf("confirm which host is admitted: %v", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func serveHealth(ctx context.Context, addr string, h http.Handler) {
	s := &http.Server{Addr: addr, Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Printf("probes: %v", err)
	}
}
