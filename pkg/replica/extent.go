package replica

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cask-storage/cask/pkg/ioc"
	"github.com/cask-storage/cask/pkg/store"
)

// Extents is a Backing on an extent of a pool directory.
type Extents struct {
	Ctx    context.Context // of the calls
	Engine ioc.Engine
	Dir    string // of the pool, as this process sees it
	Name   string // of the extent
	// OpenStore and CreateStore work on the extent's file.
	OpenStore   func(path string) (store.Store, error)
	CreateStore func(path string, size uint64) (store.Store, error)
	Logf        func(format string, args ...any)
}

// ExtentName is the name of a replica's extent.
func ExtentName(id Identity) string { return id.Volume + "-" + id.Replica }

// ExtentSize is the size of the extent for a volume of size bytes: ZFS keeps
// labels, its own reserve (a 32nd, at least 128 MiB), a log (64 MiB and more) and
// metadata (a 64th, with the smallest records) beside the data, and what is
// overwritten is written anew: with little room that is in small pieces, and waits
// for more. With a fifth a full volume takes nearly twice as many writes at random
// as with a tenth. Extents are thin.
func ExtentSize(size uint64) uint64 {
	const mib = 1 << 20
	return (size + size/4 + 512*mib + mib - 1) / mib * mib
}

// Open implements Backing. It waits for an IO container that is not there yet.
func (x Extents) Open() (store.Store, error) {
	ext, err := x.Engine.Open(x.Ctx, x.Name)
	for errors.Is(err, ioc.ErrUnavailable) {
		x.Logf("waiting for the IO container: %v", err)
		select {
		case <-x.Ctx.Done():
			return nil, errors.Join(x.Ctx.Err(), err)
		case <-time.After(time.Second):
		}
		ext, err = x.Engine.Open(x.Ctx, x.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("extent %s: %w", x.Name, classify(err))
	}
	return x.OpenStore(filepath.Join(x.Dir, ext.Path))
}

// Create implements Backing. An extent that a crash left without a store is
// used.
func (x Extents) Create(size uint64) (store.Store, error) {
	path, err := x.Engine.Create(x.Ctx, x.Name, ExtentSize(size))
	if errors.Is(err, ioc.ErrExists) {
		var ext ioc.Extent
		if err = x.Engine.Grow(x.Ctx, x.Name, ExtentSize(size)); err == nil {
			ext, err = x.Engine.Open(x.Ctx, x.Name)
		}
		path = ext.Path
	}
	if err != nil {
		return nil, fmt.Errorf("extent %s: %w", x.Name, classify(err))
	}
	return x.CreateStore(filepath.Join(x.Dir, path), size)
}

// Grow makes the extent large enough for a volume of size bytes, and has the store
// take that up.
func (x Extents) Grow(s store.Store, size uint64) error {
	if err := x.Engine.Grow(x.Ctx, x.Name, ExtentSize(size)); err != nil {
		return fmt.Errorf("extent %s: %w", x.Name, classify(err))
	}
	if g, ok := s.(store.Grower); ok {
		return g.Grow()
	}
	return nil
}

// classify maps the IO container's error classes to the store's, once.
func classify(err error) error {
	for _, m := range []struct{ from, to error }{
		{ioc.ErrNotFound, store.ErrNotFound},
		{ioc.ErrMissing, ErrMissing},
		{ioc.ErrTruncated, store.ErrTruncated},
		{ioc.ErrNoSpace, store.ErrNoSpace},
		{ioc.ErrForeign, errForeign},
		{ioc.ErrTooNew, store.ErrFormat},
		{ioc.ErrBusy, store.ErrInUse},
	} {
		if errors.Is(err, m.from) {
			return fmt.Errorf("%w: %w", m.to, err)
		}
	}
	return fmt.Errorf("%w: %w", store.ErrIO, err)
}
