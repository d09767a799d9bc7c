package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// outside is what the target has around it: Kubernetes or a file.
type outside struct {
	authority volume.Authority
	keeper    target.Keeper
	reporter  target.Reporter // may be nil
	access    access          // may be nil: all hosts are admitted
	settings  target.Settings // without access, which says them
}

// access decides about hosts and is told when those it no longer admits have
// been cut off.
type access interface {
	target.Access
	Run(ctx context.Context) error
	// First waits for the settings to begin with, Settings are the newest and
	// what is closed when they change.
	First(ctx context.Context) (target.Settings, error)
	Settings() (target.Settings, <-chan struct{}, error)
	Settle(ctx context.Context, recheck func(context.Context) error) error
}

func (o options) outside() (outside, error) {
	if path, ok := strings.CutPrefix(o.authority, "file:"); ok {
		a := target.FileAuthority{Path: path}
		return outside{authority: a, keeper: a, settings: o.settings()}, nil
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
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	settings := out.settings
	if out.access != nil {
		wg.Go(func() { follow(ctx, out.access) }) // ends with ctx
		if settings, err = out.access.First(ctx); err != nil {
			return fmt.Errorf("how volume %s is to be served is not known: %w", o.volume, err)
		}
	}
	me := instance()
	t := target.New(target.Config{
		Volume: volume.Config{
			Instance: me, Layout: &settings.Layout, Size: settings.Size, Volume: o.volume,
			AlwaysDurable: o.durability == "always", Timing: volume.DefaultTiming(),
			VerifyEvery: volume.Time(o.verifyEvery), VerifyFirst: firstVerify(o.verifyEvery),
		},
		Addresses: settings.Addresses, Authority: out.authority, Reporter: out.reporter, Logf: log.Printf,
	})
	l, err := o.listen()
	if err != nil {
		return err
	}
	return parts{o, t, l, out.access, reservations{out.keeper, o.volume, o.frontend, me}}.serve(ctx)
}

// firstVerify is a time of its own for each target: volumes are not compared all
// at once, and those whose targets are restarted often are too.
func firstVerify(every time.Duration) volume.Time {
	return volume.Time(mathrand.Int64N(int64(max(every, 1))))
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
	options
	target       *target.Target
	l            net.Listener
	access       access
	reservations reservations
}

// serve runs everything until ctx ends or the target is superseded. The
// frontend ends first: what it has taken is finished, nothing new comes.
func (p parts) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	var wg sync.WaitGroup
	var frontErr, backErr error
	wg.Go(func() { // ends when the frontend has
		defer stopBack()
		defer cancel()
		frontErr = p.serveHosts(ctx)
	})
	wg.Go(func() { // ends with back, or superseded
		defer cancel()
		backErr = p.target.Run(back)
	})
	if p.access != nil {
		wg.Go(func() { p.watchSettings(ctx) }) // ends with ctx
	}
	if p.health != "" {
		mux := http.NewServeMux()
		mux.Handle("/", p.target.Handler())
		if p.access == nil {
			mux.Handle("/verify", p.target.VerifyHandler())
			mux.Handle("/resize", p.target.ResizeHandler())
		}
		wg.Go(func() { serveHealth(ctx, p.health, mux) }) // ends with ctx
	}
	wg.Wait()
	if backErr != nil {
		return backErr
	}
	return frontErr
}

// serveHosts runs the frontend once the target has its epoch: hosts that come
// before wait in the listener's queue.
func (p parts) serveHosts(ctx context.Context) error {
	select {
	case <-p.target.Acquired():
	case <-ctx.Done():
		return p.l.Close()
	}
	front, s, err := p.makeFrontend(ctx)
	if err != nil {
		return errors.Join(err, p.l.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var named error
	wg.Go(func() { // ends with ctx
		if named = s.run(ctx); named != nil {
			cancel()
		}
	})
	if p.access != nil {
		wg.Go(func() { p.watchAccess(ctx, front) }) // ends with ctx
	}
	err = front.Serve(ctx, p.l)
	cancel()
	wg.Wait()
	return errors.Join(named, err)
}

// watchAccess cuts hosts off that may no longer use the volume, and says so.
func (p parts) watchAccess(ctx context.Context, front frontend) {
	for ctx.Err() == nil {
		changed := p.access.Changed()
		if err := p.access.Settle(ctx, front.Recheck); err != nil && ctx.Err() == nil {
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

// watchSettings has the target follow the volume's settings.
func (p parts) watchSettings(ctx context.Context) {
	for ctx.Err() == nil {
		s, changed, err := p.access.Settings()
		if err == nil {
			p.target.Configure(s)
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
