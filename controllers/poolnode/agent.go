package poolnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/ioc"
)

// lookAgain is how often the directory is looked at; what is seen is written
// only when it changed.
const lookAgain = 5 * time.Second

// Agent opens the directory and reports it.
type Agent struct {
	// Base is what the command line says; its terms come from the
	// StoragePool.
	Base   ioc.FileConfig
	Gate   *ioc.Gate
	Client client.Client
	// Fresh reads past the cache, where a stale answer could do harm.
	Fresh  client.Reader
	Events record.EventRecorder

	mu     sync.Mutex
	engine *ioc.FileEngine
}

// Reconcile looks at the directory and the StoragePool, and brings the node's
// entry up to date.
func (a *Agent) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	again := reconcile.Result{RequeueAfter: lookAgain}
	pool := new(v1alpha1.StoragePool)
	if err := a.Client.Get(ctx, client.ObjectKey{Name: a.Base.Pool}, pool); apierrors.IsNotFound(err) {
		return again, nil // extents in use go on being served
	} else if err != nil {
		return again, fmt.Errorf("StoragePool %s: read: %w", a.Base.Pool, err)
	}
	var volumes v1alpha1.VolumeList
	if err := a.Client.List(ctx, &volumes); err != nil {
		return again, fmt.Errorf("list Volumes: %w", err)
	}
	cfg := terms(a.Base, pool, volumes.Items)
	a.setLimits(cfg.Limits)
	seen := a.look(ctx, volumes.Items)
	if errors.Is(seen.problem, ioc.ErrUnavailable) {
		return again, seen.problem // it says nothing about the directory
	}
	old := entry(pool, a.Base.Node)
	now := describe(cfg, old.PoolID, seen, volumes.Items)
	if !worthReporting(old, now) {
		return again, nil
	}
	return again, a.report(ctx, pool, now)
}

// look opens the directory when it is not open, and closes it when it is no
// longer the one that was opened.
func (a *Agent) look(ctx context.Context, volumes []v1alpha1.Volume) observed {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engine == nil {
		if err := a.openLocked(ctx, volumes); err != nil {
			a.Gate.Refuse(err)
			return observed{problem: err}
		}
	}
	var o observed
	o.status, o.problem = a.engine.Status(ctx)
	if o.problem == nil {
		o.extents, o.problem = a.engine.List(ctx)
	}
	if errors.Is(o.problem, ioc.ErrForeign) {
		a.Gate.Refuse(o.problem)
		a.engine.Close()
		a.engine = nil
	}
	return o
}

func (a *Agent) openLocked(ctx context.Context, volumes []v1alpha1.Volume) error {
	pool := new(v1alpha1.StoragePool)
	if err := a.Fresh.Get(ctx, client.ObjectKey{Name: a.Base.Pool}, pool); err != nil {
		return &ioc.Error{Code: ioc.CodeUnavailable, Object: "StoragePool " + a.Base.Pool,
			Detail: "cannot be read, so it is not known which disk is the right one; see the API server", Cause: err}
	}
	engine, err := ioc.OpenFile(ctx, terms(a.Base, pool, volumes))
	if err != nil {
		return a.explain(err, entry(pool, a.Base.Node).PoolID)
	}
	log.FromContext(ctx).Info("pool directory is open", "dir", a.Base.Dir, "poolID", engine.PoolID())
	a.engine = engine
	a.Gate.Admit(engine)
	return nil
}

// explain adds the way out for a disk that was replaced on purpose.
func (a *Agent) explain(err error, recordedID string) error {
	var e *ioc.Error
	if !errors.As(err, &e) || e.Code != ioc.CodeForeign {
		return err
	}
	if recordedID == "" {
		recordedID = a.Base.Node
	}
	way := *e
	way.Detail += fmt.Sprintf("; if the disk is gone for good, put an empty one there and: kubectl annotate storagepool %s %s=%s",
		a.Base.Pool, AnnotationReplaceDisk, recordedID)
	return &way
}

func (a *Agent) setLimits(l ioc.Limits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engine != nil {
		a.engine.SetLimits(l)
	}
}

// report writes the node's entry, and tells people when it stopped working.
func (a *Agent) report(ctx context.Context, pool *v1alpha1.StoragePool, now v1alpha1.PoolNode) error {
	old := entry(pool, now.Name)
	status := map[string]any{"nodes": []v1alpha1.PoolNode{now}}
	if err := applyStatus(ctx, a.Client, pool, applied{manager: fieldManager("ioc-" + a.Base.Node), status: status}); err != nil {
		return fmt.Errorf("StoragePool %s: report node %s: %w", pool.Name, now.Name, err)
	}
	if now.Reason != old.Reason && now.Reason != ReasonReady {
		a.Events.Eventf(pool, corev1.EventTypeWarning, now.Reason, "node %s: %s", now.Name, now.Message)
	}
	return nil
}

// Close closes the directory; the gate must not be served any more.
func (a *Agent) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engine == nil {
		return nil
	}
	engine := a.engine
	a.engine = nil
	return engine.Close()
}
