// Package runnable runs the parts of a process together: all start, the first
// to fail ends the others, and all are waited for.
package runnable

import (
	"context"

	"golang.org/x/sync/errgroup"
)

// Runnable runs until its context is done. It is controller-runtime's, so that
// a part can be run by a manager as well.
type Runnable interface {
	Start(ctx context.Context) error
}

// Run runs parts until ctx is done or one fails.
func Run(ctx context.Context, parts ...Runnable) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range parts {
		g.Go(func() error { return p.Start(ctx) })
	}
	return g.Wait()
}
