package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/target"
)

var _ target.Access = (*Volume)(nil)

// HostNQNPrefix begins the NQN of every host of Cask's; the node and the
// attachment's ID follow, with a colon between.
const HostNQNPrefix = "nqn.2026-01.storage.cask:host:"

// maxNQN is the longest NQN that NVMe allows.
const maxNQN = 223

// HostNQN is the NQN that an attachment's host connects with.
func HostNQN(a v1alpha1.VolumeAttachment) string {
	return HostNQNPrefix + a.Node + ":" + a.ID
}

// ParseHostNQN is the inverse of HostNQN.
func ParseHostNQN(nqn string) (v1alpha1.VolumeAttachment, error) {
	rest, ok := strings.CutPrefix(nqn, HostNQNPrefix)
	node, id, split := strings.Cut(rest, ":")
	if len(nqn) > maxNQN || !ok || !split || node == "" || id == "" || strings.Contains(id, ":") {
		return v1alpha1.VolumeAttachment{}, fmt.Errorf("host NQN %.*q is not of the form %s<node>:<attachment>", maxNQN, nqn, HostNQNPrefix)
	}
	return v1alpha1.VolumeAttachment{Node: node, ID: id}, nil
}

// Admit returns nil when the host is one of the attachment that the Volume
// names now, or with frontend iscsi and no attachment one of its initiators, and ErrNotAdmitted when it is not; after any other error the host
// may try again. While the API server cannot be asked, what it said last holds, but
// no new attachment is admitted.
func (v *Volume) Admit(ctx context.Context, hostNQN string) error {
	obj, err := v.current(ctx)
	if errors.Is(err, ErrGone) {
		return fmt.Errorf("volume %s: %w: %w", v.o.Volume, ErrNotAdmitted, err)
	}
	if err != nil {
		return fmt.Errorf("volume %s: cannot tell whether host %.*q may use it: %w", v.o.Volume, maxNQN, hostNQN, err)
	}
	if obj.Spec.Frontend == v1alpha1.FrontendISCSI {
		var ours bool
		if hostNQN, ours = fromIQN(hostNQN); !ours {
			return v.listed(obj, hostNQN)
		}
	}
	host, err := ParseHostNQN(hostNQN)
	if err != nil {
		return fmt.Errorf("volume %s: %w: %w", v.o.Volume, ErrNotAdmitted, err)
	}
	if err := v.mayUse(obj, host); err != nil {
		return err
	}
	v.mu.Lock()
	known := v.holder != "" && v.published == host.ID
	v.mu.Unlock()
	if known {
		return nil
	}
	return v.publish(ctx, host)
}

// fromIQN is the NQN of a host of Cask's own, which nodes go by with iSCSI too;
// any other name it returns as it is.
func fromIQN(name string) (nqn string, ours bool) {
	if rest, ok := strings.CutPrefix(name, "iqn"+strings.TrimPrefix(HostNQNPrefix, "nqn")); ok {
		return HostNQNPrefix + rest, true
	}
	return name, false
}

// current is the newest version there is to be had.
func (v *Volume) current(ctx context.Context) (*v1alpha1.Volume, error) {
	_, err := v.read(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.gone:
		return nil, ErrGone
	case v.latest == nil || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return nil, err
	}
	return v.latest, nil
}

// listed looks an initiator up: no attachment stands behind it, and nothing
// fences it but the removal of its name.
func (v *Volume) listed(obj *v1alpha1.Volume, initiator string) error {
	if a := obj.Spec.Attachment; a != nil {
		return fmt.Errorf("volume %s is attached to node %s: %w: initiator %.*q has to wait until it is detached", v.o.Volume, a.Node, ErrNotAdmitted, maxNQN, initiator)
	}
	if slices.Contains(obj.Spec.Initiators, strings.ToLower(initiator)) {
		return nil
	}
	return fmt.Errorf("volume %s: %w: initiator %.*q is not in spec.initiators", v.o.Volume, ErrNotAdmitted, maxNQN, initiator)
}

// mayUse compares a host with the Volume's attachment.
func (v *Volume) mayUse(obj *v1alpha1.Volume, host v1alpha1.VolumeAttachment) error {
	a := obj.Spec.Attachment
	switch {
	case a == nil:
		return fmt.Errorf("volume %s is attached to no node: %w: %s of attachment %s has to be attached anew", v.o.Volume, ErrNotAdmitted, host.Node, host.ID)
	case a.Node != host.Node:
		return fmt.Errorf("volume %s is attached to node %s: %w: %s", v.o.Volume, a.Node, ErrNotAdmitted, host.Node)
	case a.ID != host.ID:
		return fmt.Errorf("volume %s is attached to node %s by attachment %s: %w: %s is an older one", v.o.Volume, a.Node, a.ID, ErrNotAdmitted, host.ID)
	}
	return nil
}

// publish records that hosts of an attachment may be connected from now on.
func (v *Volume) publish(ctx context.Context, host v1alpha1.VolumeAttachment) error {
	if err := v.lockPublishing(ctx); err != nil {
		return err
	}
	defer v.unlockPublishing()
	return v.setPublished(ctx, host.ID, func(obj *v1alpha1.Volume) error { return v.mayUse(obj, host) })
}

// setPublished writes status.target.attachment if check agrees with the version
// it is written to. publishing is held.
func (v *Volume) setPublished(ctx context.Context, id string, check func(*v1alpha1.Volume) error) error {
	v.mu.Lock()
	holder := v.holder
	v.mu.Unlock()
	err := v.update(ctx, func(obj *v1alpha1.Volume) error {
		if holder == "" || obj.Status.Holder != holder {
			return fmt.Errorf("volume %s is held by %q: %w", v.o.Volume, obj.Status.Holder, ErrSuperseded)
		}
		if err := check(obj); err != nil {
			return err
		}
		obj.Status.Target.Attachment = id
		return nil
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.publishedLocked(id)
	return nil
}

func (v *Volume) publishedLocked(id string) {
	v.published = id
	v.publishes++
}

// Changed is closed when the Volume's attachment is another one.
func (v *Volume) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

// Settle has recheck ask Admit again about every host that is or is being
// connected and cut off the refused, and then publishes that only those of the
// Volume's attachment are left. Call it after each change:
//
//	for {
//		changed := v.Changed()
//		err := v.Settle(ctx, recheck) // on an error, try again soon
//		…wait for changed
//	}
func (v *Volume) Settle(ctx context.Context, recheck func(context.Context) error) error {
	v.mu.Lock()
	id, publishes := "", v.publishes
	if v.latest != nil && !v.gone {
		id = attachmentID(v.latest)
	}
	idle := v.holder == "" || v.latest == nil
	v.mu.Unlock()
	if err := recheck(ctx); err != nil || idle {
		return err
	}
	if err := v.lockPublishing(ctx); err != nil {
		return err
	}
	defer v.unlockPublishing()
	v.mu.Lock()
	done := v.published == id || v.publishes != publishes // a host admitted meanwhile: there is a newer change
	v.mu.Unlock()
	if done {
		return nil
	}
	return v.setPublished(ctx, id, func(*v1alpha1.Volume) error { return nil })
}

func (v *Volume) lockPublishing(ctx context.Context) error {
	select {
	case v.publishing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *Volume) unlockPublishing() { <-v.publishing }
