//go:build linux

// Package events writes what the node plugin did as events on Volumes, where
// people look.
package events

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/node"
)

// Options name the source of events.
type Options struct{ Component, Node string }

// Recorder writes events in the background while it is started; it never
// blocks who reports one. Methods may be called from any goroutine.
type Recorder struct {
	broadcaster record.EventBroadcaster
	sink        record.EventSink
	recorder    record.EventRecorder
}

// New makes a Recorder; it writes once started.
func New(cfg *rest.Config, o Options) (*Recorder, error) {
	cs, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make the API client: %w", err)
	}
	b := record.NewBroadcaster()
	return &Recorder{
		broadcaster: b,
		sink:        &typedcorev1.EventSinkImpl{Interface: cs.CoreV1().Events("")},
		recorder:    b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: o.Component, Host: o.Node}),
	}, nil
}

// Start writes events until ctx is done.
func (r *Recorder) Start(ctx context.Context) error {
	w := r.broadcaster.StartRecordingToSink(r.sink)
	<-ctx.Done()
	w.Stop()
	r.broadcaster.Shutdown()
	return nil
}

// Attached reports an attachment.
func (r *Recorder) Attached(a node.Attachment) {
	ref := &corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Volume", Name: a.Volume, UID: types.UID(a.UID)}
	r.recorder.Event(ref, corev1.EventTypeNormal, "AttachedToNode", a.Message)
}
