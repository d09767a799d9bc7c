// Package controllers is the operator: its reconcilers, one package for each
// kind, put together. What they share is in internal: resources builds objects,
// conditions sums findings up, both pure.
package controllers

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/cask-storage/cask/controllers/internal/resources"
	"github.com/cask-storage/cask/controllers/internal/scheme"
	"github.com/cask-storage/cask/controllers/nodefailure"
	"github.com/cask-storage/cask/controllers/storagepool"
	"github.com/cask-storage/cask/controllers/volume"
)

// Settings are the choices that hold for every pod the operator makes.
type Settings = resources.Settings

// Limits bound one kind of pod.
type Limits = resources.Limits

// DefaultSettings are what the operator's flags default to.
func DefaultSettings() Settings { return resources.DefaultSettings() }

// Options of the operator.
type Options struct {
	Settings Settings
	// NodeFailureGrace is how long a node with volumes may be NotReady
	// before it is taken out of service; 0 never does it.
	NodeFailureGrace time.Duration
}

// Scheme knows every kind the operator reads or writes.
func Scheme() *runtime.Scheme { return scheme.New() }

// Setup registers every reconciler with the manager.
func Setup(mgr ctrl.Manager, o Options) error {
	c, api, events := mgr.GetClient(), mgr.GetAPIReader(), mgr.GetEventRecorderFor("cask-operator")
	reconcilers := []interface{ SetupWithManager(ctrl.Manager) error }{
		&storagepool.Reconciler{Client: c, API: api, Events: events, Settings: o.Settings},
		&volume.Reconciler{Client: c, API: api, Events: events, Settings: o.Settings},
	}
	if o.NodeFailureGrace > 0 {
		reconcilers = append(reconcilers, &nodefailure.Reconciler{Client: c, API: api, Events: events, Grace: o.NodeFailureGrace})
	}
	for _, r := range reconcilers {
		if err := r.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("set up %T: %w", r, err)
		}
	}
	return nil
}
