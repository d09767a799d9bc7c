package kube

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// The waits between tries to reach the API server.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 15 * time.Second
)

// Run follows the Volume until ctx ends or the Volume is gone.
func (v *Volume) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		started := time.Now()
		err := v.follow(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrGone) || apierrors.IsNotFound(err):
			v.lost()
			return ErrGone
		case err != nil:
			v.log.Warn("cannot follow the Volume, trying again", "error", err, "after", backoff)
		}
		if time.Since(started) > maxBackoff {
			backoff = minBackoff
		}
		if !sleep(ctx, backoff) {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// follow reads the Volume and then watches it until the server ends that.
func (v *Volume) follow(ctx context.Context) error {
	obj, err := v.read(ctx)
	if err != nil {
		return err
	}
	w, err := v.api.watch(ctx, obj.ResourceVersion)
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		if err := v.judge(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			if err := v.take(e); err != nil {
				return err
			}
		}
	}
}

// take takes one watch event in.
func (v *Volume) take(e watch.Event) error {
	switch e.Type {
	case watch.Added, watch.Modified:
		if obj, ok := e.Object.(*v1alpha1.Volume); ok {
			return v.observe(obj)
		}
	case watch.Deleted:
		return ErrGone
	case watch.Error:
		return apierrors.FromObject(e.Object)
	}
	return nil
}
