package ioc

import (
	"context"
	"sync"
)

// Gate is the Engine a server starts with, before it is known whether the pool
// directory may be used: until Admit it answers every call with the reason.
type Gate struct {
	mu     sync.RWMutex
	engine Engine
	reason error
}

// Admit lets calls through to e from now on.
func (g *Gate) Admit(e Engine) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.engine, g.reason = e, nil
}

// Refuse answers calls with reason from now on.
func (g *Gate) Refuse(reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.engine, g.reason = nil, reason
}

// use returns the engine, or why there is none.
func (g *Gate) use() (Engine, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	switch {
	case g.engine != nil:
		return g.engine, nil
	case g.reason != nil:
		return nil, g.reason
	}
	return nil, &Error{Code: CodeUnavailable, Object: "IO container", Detail: "it is starting; try again in a moment"}
}

// Create implements Engine.
func (g *Gate) Create(ctx context.Context, name string, size uint64) (string, error) {
	e, err := g.use()
	if err != nil {
		return "", err
	}
	return e.Create(ctx, name, size)
}

// Open implements Engine.
func (g *Gate) Open(ctx context.Context, name string) (Extent, error) {
	e, err := g.use()
	if err != nil {
		return Extent{}, err
	}
	return e.Open(ctx, name)
}

// Grow implements Engine.
func (g *Gate) Grow(ctx context.Context, name string, size uint64) error {
	e, err := g.use()
	if err != nil {
		return err
	}
	return e.Grow(ctx, name, size)
}

// Delete implements Engine.
func (g *Gate) Delete(ctx context.Context, name string) error {
	e, err := g.use()
	if err != nil {
		return err
	}
	return e.Delete(ctx, name)
}

// List implements Engine.
func (g *Gate) List(ctx context.Context) ([]Extent, error) {
	e, err := g.use()
	if err != nil {
		return nil, err
	}
	return e.List(ctx)
}

// Status implements Engine.
func (g *Gate) Status(ctx context.Context) (Status, error) {
	e, err := g.use()
	if err != nil {
		return Status{}, err
	}
	return e.Status(ctx)
}
