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
	front, l, err := o.listenFrontend(t, out.access)
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

// parts are what serve runs.
type parts struct {
	target *target.Target
	front  frontend
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
