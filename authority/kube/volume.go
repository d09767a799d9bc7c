package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/volume"
)

var (
	// ErrSuperseded is returned when another target has acquired an epoch
	// since: this one has nothing to say about the volume any more.
	ErrSuperseded = errors.New("another target has taken over")
	// ErrGone is returned when the Volume was deleted, or is another one of
	// the same name.
	ErrGone = errors.New("the Volume is gone")
	// ErrNotAdmitted is returned for a host that may not use the volume.
	ErrNotAdmitted = errors.New("host not admitted")
)

// maxTries bounds how often a write is repeated after a conflict: the others
// write on transitions only.
const maxTries = 20

// Options say which Volume, and who we are.
type Options struct {
	Config *rest.Config
	Volume string
	Pod    string
	Node   string
	Log    *slog.Logger // slog's default when nil
}

// Volume is the Volume object of a target.
type Volume struct {
	o   Options
	api api
	log *slog.Logger

	publishing chan struct{} // semaphore: changes of the published attachment

	mu      sync.Mutex
	latest  *v1alpha1.Volume // newest version seen; nil before the first
	uid     types.UID        // of the first version seen
	gone    bool
	changed chan struct{}
	// reconfigured is closed and replaced when the settings changed.
	reconfigured chan struct{}
	holder       string // that this process acquired its epoch as; empty before
	// written are the records of which one is the newest that this process
	// wrote: two while it is not known what became of a swap, none before it has
	// an epoch and after it gave it back.
	written   []volume.Record
	published string // status.target.attachment, as this holder wrote it
	publishes uint64 // writes of published so far
}

// New makes the connection; nothing is asked of the API server yet.
func New(o Options) (*Volume, error) {
	for name, value := range map[string]string{"volume": o.Volume, "pod": o.Pod, "node": o.Node} {
		if value == "" {
			return nil, fmt.Errorf("the %s's name is needed (environment POD_NAME and NODE_NAME)", name)
		}
	}
	s, err := newServer(o.Config, o.Volume)
	if err != nil {
		return nil, fmt.Errorf("client for volume %s: %w", o.Volume, err)
	}
	return newVolume(o, s), nil
}

func newVolume(o Options, a api) *Volume {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	return &Volume{
		o: o, api: a, log: log.With("volume", o.Volume),
		publishing: make(chan struct{}, 1),
		changed:    make(chan struct{}), reconfigured: make(chan struct{}),
	}
}

// read gets the newest version.
func (v *Volume) read(ctx context.Context) (*v1alpha1.Volume, error) {
	obj, err := v.api.get(ctx)
	if apierrors.IsNotFound(err) {
		v.lost()
	}
	if err != nil {
		return nil, fmt.Errorf("read Volume %s: %w", v.o.Volume, err)
	}
	return obj, v.observe(obj)
}

// errUnchanged is returned by an edit that found nothing to do.
var errUnchanged = errors.New("nothing to write")

// update writes an edit of the newest version of the status, again while
// others are faster and the edit still agrees.
func (v *Volume) update(ctx context.Context, edit func(*v1alpha1.Volume) error) error {
	var err error
	for try := range maxTries {
		if err := pause(ctx, try); err != nil {
			return err
		}
		var obj *v1alpha1.Volume
		if obj, err = v.read(ctx); err != nil {
			return err
		}
		if err = edit(obj); err != nil {
			if errors.Is(err, errUnchanged) {
				return nil
			}
			return err
		}
		var stored *v1alpha1.Volume
		if stored, err = v.api.updateStatus(ctx, obj); err == nil {
			return v.observe(stored)
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return fmt.Errorf("update the status of Volume %s: %w", v.o.Volume, err)
}

// pause waits before the try-th try, longer each time.
func pause(ctx context.Context, try int) error {
	if try == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(time.Duration(min(try*try, 50)) * 5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// observe takes a version in unless a newer one is known, and tells who waits
// for changes of the attachment.
func (v *Volume) observe(obj *v1alpha1.Volume) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.uid == "" {
		v.uid = obj.UID
	}
	if obj.UID != v.uid {
		v.lostLocked()
		return fmt.Errorf("volume %s was deleted and made anew: %w", v.o.Volume, ErrGone)
	}
	if v.latest != nil && version(obj) < version(v.latest) {
		return nil
	}
	before := v.latest
	v.latest = obj.DeepCopy()
	if before == nil || attachmentID(before) != attachmentID(obj) || !slices.Equal(before.Spec.Initiators, obj.Spec.Initiators) {
		v.tellLocked()
	}
	v.tellSettingsLocked(before, obj)
	return nil
}

func (v *Volume) lost() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lostLocked()
}

func (v *Volume) lostLocked() {
	if !v.gone {
		v.gone = true
		v.tellLocked()
		close(v.reconfigured)
		v.reconfigured = make(chan struct{})
	}
}

func (v *Volume) tellLocked() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// version orders the versions of one object, as etcd numbers them.
func version(obj *v1alpha1.Volume) uint64 {
	n, err := strconv.ParseUint(obj.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// attachmentID is empty when no node may use the volume.
func attachmentID(obj *v1alpha1.Volume) string {
	if obj.Spec.Attachment == nil {
		return ""
	}
	return obj.Spec.Attachment.ID
}
