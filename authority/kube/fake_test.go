package kube

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/cask-storage/cask/api/v1alpha1"
)

var volumes = schema.GroupResource{Group: "cask.storage", Resource: "volumes"}

// fake is an API server with one Volume: versions, conflicts and watches, as
// the real one has them.
type fake struct {
	mu      sync.Mutex
	obj     *v1alpha1.Volume // nil: deleted
	version int
	down    bool
	watches []*watch.FakeWatcher
	events  []*corev1.Event
	updates int
	// before runs, unlocked, before each update: another writer.
	before func()
	lost   string // what of the next update is lost: the "call" or the "answer"
}

func newFake() *fake {
	f := &fake{}
	f.put(&v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", UID: "uid-1"},
		Spec:       v1alpha1.VolumeSpec{Size: resource.MustParse("1Gi"), Replicas: 3, Consistency: "quorum"},
		Status: v1alpha1.VolumeStatus{
			Voters: []string{"r0", "r1", "r2"},
			Replicas: []v1alpha1.VolumeReplica{
				{ID: "r0", Node: "n0", Pool: "p"}, {ID: "r1", Node: "n1", Pool: "p"}, {ID: "r2", Node: "n2", Pool: "p"},
			},
		},
	})
	return f
}

// put stores a version; f.mu is held or f not shared yet.
func (f *fake) put(obj *v1alpha1.Volume) {
	f.version++
	obj.ResourceVersion = strconv.Itoa(f.version)
	f.obj = obj.DeepCopy()
	for _, w := range f.watches {
		w.Modify(obj.DeepCopy())
	}
}

// edit is another writer's change.
func (f *fake) edit(change func(*v1alpha1.Volume)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := f.obj.DeepCopy()
	change(next)
	f.put(next)
}

func (f *fake) attach(node, id string) {
	f.edit(func(v *v1alpha1.Volume) {
		v.Spec.Attachment = nil
		if node != "" {
			v.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: node, ID: id}
		}
	})
}

func (f *fake) remove() {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.obj
	f.obj = nil
	for _, w := range f.watches {
		w.Delete(last)
	}
}

func (f *fake) setDown(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
}

func (f *fake) status() v1alpha1.VolumeStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *f.obj.Status.DeepCopy()
}

var errDown = errors.New("connection refused")

func (f *fake) get(context.Context) (*v1alpha1.Volume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	if f.obj == nil {
		return nil, apierrors.NewNotFound(volumes, "pvc-1")
	}
	return f.obj.DeepCopy(), nil
}

func (f *fake) updateStatus(_ context.Context, v *v1alpha1.Volume) (*v1alpha1.Volume, error) {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		before()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, errDown
	}
	if f.obj == nil {
		return nil, apierrors.NewNotFound(volumes, "pvc-1")
	}
	if v.ResourceVersion != f.obj.ResourceVersion {
		return nil, apierrors.NewConflict(volumes, v.Name, fmt.Errorf("version %s, not %s", f.obj.ResourceVersion, v.ResourceVersion))
	}
	lost := f.lost
	if f.lost = ""; lost == "call" {
		return nil, errDown
	}
	f.updates++
	next := f.obj.DeepCopy()
	if !equality.Semantic.DeepEqual(next.Spec, v.Spec) {
		return nil, errors.New("the status update carries another spec")
	}
	next.Status = v.Status
	f.put(next)
	if lost != "" {
		return nil, errDown
	}
	return next.DeepCopy(), nil
}

func (f *fake) watch(_ context.Context, version string) (watch.Interface, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down || f.obj == nil {
		return nil, errDown
	}
	w := watch.NewFakeWithChanSize(1000, false)
	if f.obj.ResourceVersion != version {
		w.Modify(f.obj.DeepCopy())
	}
	f.watches = append(f.watches, w)
	return w, nil
}

func (f *fake) event(_ context.Context, e *corev1.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	return nil
}

// closeWatches ends them as the real server does now and then.
func (f *fake) closeWatches() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.watches {
		w.Stop()
	}
	f.watches = nil
}

func (f *fake) setUID(uid string) {
	f.edit(func(v *v1alpha1.Volume) { v.UID = types.UID(uid) })
}

// open is a target of the fake's volume, in a pod on a node.
func open(f *fake, pod, node string) *Volume {
	return newVolume(Options{Volume: "pvc-1", Pod: pod, Node: node}, f)
}

// following runs v until the test ends.
func following(t *testing.T, v *Volume) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // ends with cancel; waited for below
		defer close(done)
		_ = v.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
