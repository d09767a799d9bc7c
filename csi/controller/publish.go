package controller

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/capability"
	"github.com/cask-storage/cask/csi/publishcontext"
)

// ControllerPublishVolume gives the volume to one node.
func (s *Server) ControllerPublishVolume(ctx context.Context, q *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if q.GetVolumeId() == "" || q.GetNodeId() == "" {
		return nil, invalid("a volume ID and a node ID are wanted")
	}
	if err := capability.CheckOne(q.GetVolumeCapability()); err != nil {
		return nil, invalid("volume %s: %v", q.GetVolumeId(), err)
	}
	v := &v1alpha1.Volume{}
	if err := s.get(ctx, q.GetVolumeId(), v); err != nil {
		return nil, err
	}
	if err := s.nodeExists(ctx, q.GetNodeId()); err != nil {
		return nil, err
	}
	if err := forPods(v); err != nil {
		return nil, err
	}
	want := v1alpha1.VolumeAttachment{Node: q.GetNodeId(), ReadOnly: q.GetReadonly() || capability.ReadOnly(q.GetVolumeCapability())}
	if err := s.attach(ctx, v, want); err != nil {
		return nil, err
	}
	return s.published(ctx, v)
}

// forPods refuses what initiators outside of the cluster may have open: a file
// system does not stand two hosts.
func forPods(v *v1alpha1.Volume) error {
	if len(v.Spec.Initiators) > 0 || v.Spec.AuthenticationSecret != "" {
		return status.Errorf(codes.FailedPrecondition, "volume %s is for the initiators outside of pods that its spec names, "+
			"at the address that kubectl get volume %s -o wide shows; for pods take a StorageClass without %s and %s", v.Name, v.Name, ParamInitiators, ParamAuth)
	}
	return nil
}

func (s *Server) nodeExists(ctx context.Context, name string) error {
	var n corev1.Node
	err := s.opt.Client.Get(ctx, client.ObjectKey{Name: name}, &n)
	if apierrors.IsNotFound(err) {
		return status.Errorf(codes.NotFound, "node %s does not exist", name)
	}
	return fromAPI(err, "get node "+name)
}

// attach records the attachment, unless it is there.
func (s *Server) attach(ctx context.Context, v *v1alpha1.Volume, want v1alpha1.VolumeAttachment) error {
	if have := v.Spec.Attachment; have != nil {
		return attached(v.Name, *have, want)
	}
	if !v.DeletionTimestamp.IsZero() {
		return status.Errorf(codes.FailedPrecondition, "volume %s is being deleted and cannot be attached to node %s", v.Name, want.Node)
	}
	want.ID = rand.Text()
	v.Spec.Attachment = &want
	delete(v.Annotations, v1alpha1.AnnotationFenced)
	if err := s.opt.Client.Update(ctx, v); err != nil {
		return fromAPI(err, "attach volume "+v.Name+" to node "+want.Node)
	}
	s.opt.Log.Info("attached", "volume", v.Name, "node", want.Node, "attachment", want.ID)
	return nil
}

// attached judges a request for a volume that has an attachment.
func attached(volume string, have, want v1alpha1.VolumeAttachment) error {
	if have.Node != want.Node {
		return status.Errorf(codes.FailedPrecondition, "volume %s is attached to node %s; a ReadWriteOnce volume is used by one node at a time: "+
			"delete the pods that use it on node %s, or run this one there, before it can be attached to node %s", volume, have.Node, have.Node, want.Node)
	}
	if have.ReadOnly != want.ReadOnly {
		return status.Errorf(codes.AlreadyExists, "volume %s is attached to node %s with readOnly %v; it must be detached to change that", volume, have.Node, have.ReadOnly)
	}
	return nil
}

// published waits for the target's address and describes the way to it.
func (s *Server) published(ctx context.Context, v *v1alpha1.Volume) (*csi.ControllerPublishVolumeResponse, error) {
	own := *v.Spec.Attachment
	err := s.until(ctx, s.opt.PublishTimeout, func(ctx context.Context) (bool, error) {
		if v.Status.Target.Address != "" {
			return true, nil
		}
		err := s.get(ctx, v.Name, v)
		return v.Status.Target.Address != "", err
	})
	if errors.Is(err, errNotYet) {
		return nil, status.Errorf(codes.Unavailable, "volume %s has no target address yet; see kubectl get volume %s -o yaml and the pod %s-ctrl in cask-system", v.Name, v.Name, v.Name)
	}
	if err != nil {
		return nil, err
	}
	return &csi.ControllerPublishVolumeResponse{PublishContext: publishcontext.Context{
		Address: v.Status.Target.Address, NQN: publishcontext.VolumeNQN(v.Name), NSID: publishcontext.NSID,
		Attachment: own.ID, ReadOnly: own.ReadOnly, UID: string(v.UID), Frontend: spokenTo(v), Authentication: proven(v),
	}.Map()}, nil
}

// spokenTo is the frontend as nodes are told of it: nothing for NVMe/TCP, as
// nodes of before know it.
func spokenTo(v *v1alpha1.Volume) string {
	if v.Spec.Frontend == v1alpha1.FrontendISCSI {
		return v1alpha1.FrontendISCSI
	}
	return ""
}

// proven is what nodes have to prove, as they are told of it.
func proven(v *v1alpha1.Volume) string {
	if v.NodesAuthenticate() {
		return v1alpha1.AuthenticationNodes
	}
	return ""
}

// ControllerUnpublishVolume takes the volume from a node, if that node has it.
func (s *Server) ControllerUnpublishVolume(ctx context.Context, q *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	ok := &csi.ControllerUnpublishVolumeResponse{}
	v := &v1alpha1.Volume{}
	err := s.get(ctx, q.GetVolumeId(), v)
	if status.Code(err) == codes.NotFound {
		return ok, nil
	}
	if err != nil {
		return nil, err
	}
	have := v.Spec.Attachment
	_, withdrawn := v.Annotations[v1alpha1.AnnotationFenced]
	if have == nil && !withdrawn || have != nil && q.GetNodeId() != "" && have.Node != q.GetNodeId() {
		return ok, nil
	}
	// One withdrawn from a failed node must not be given back either.
	v.Spec.Attachment = nil
	delete(v.Annotations, v1alpha1.AnnotationFenced)
	if err := s.opt.Client.Update(ctx, v); err != nil {
		return nil, fromAPI(err, "detach volume "+v.Name+" from node "+q.GetNodeId())
	}
	s.opt.Log.Info("detached", "volume", v.Name, "node", q.GetNodeId(), "attachment", have)
	return ok, nil
}
