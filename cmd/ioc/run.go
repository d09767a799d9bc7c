package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cask-storage/cask/controllers/poolnode"
	"github.com/cask-storage/cask/pkg/ioc"
)

// run serves until ctx ends. The errgroup owns every goroutine; the directory is
// closed when all have ended.
func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	d := deps{o, new(ioc.Gate)}
	open := openInCluster
	if o.standalone {
		open = openDirectory
	}
	closer, err := open(ctx, g, d)
	if err != nil {
		return err
	}
	if err = serve(ctx, g, d); err != nil {
		cancel()
	}
	return errors.Join(err, g.Wait(), closer())
}

type deps struct {
	options
	gate *ioc.Gate
}

func serve(ctx context.Context, g *errgroup.Group, d deps) error {
	l, err := ioc.Listen(d.socket, d.files.Owner)
	if err != nil {
		return err
	}
	slog.Info("serving extents", "socket", d.socket, "pool", d.files.Pool, "node", d.files.Node)
	g.Go(func() error { return ioc.Serve(ctx, l, ioc.NewHandler(d.gate)) })
	if d.health == "" {
		return nil
	}
	h, err := net.Listen("tcp", d.health)
	if err != nil {
		return fmt.Errorf("--health %s: cannot listen: %w", d.health, err)
	}
	g.Go(func() error { return ioc.Serve(ctx, ioc.Bound(h), ioc.NewHealthHandler(d.gate, d.files)) })
	return nil
}

// openDirectory opens the directory on the command line's terms.
func openDirectory(ctx context.Context, _ *errgroup.Group, d deps) (func() error, error) {
	cfg := d.files
	cfg.FirstUse = true
	engine, err := ioc.OpenFile(ctx, cfg)
	if err != nil {
		return nil, err
	}
	d.gate.Admit(engine)
	return engine.Close, nil
}

// openInCluster lets the StoragePool say when the directory is opened.
func openInCluster(ctx context.Context, g *errgroup.Group, d deps) (func() error, error) {
	ctrl.SetLogger(logr.FromSlogHandler(slog.Default().Handler()))
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster to report to (use --standalone to do without): %w", err)
	}
	mgr, err := ctrl.NewManager(cfg, poolnode.Options(d.files.Pool))
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	agent, err := poolnode.Setup(mgr, d.files, d.gate)
	if err != nil {
		return nil, err
	}
	g.Go(func() error { return mgr.Start(ctx) })
	return agent.Close, nil
}
