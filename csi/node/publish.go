//go:build linux

package node

import (
	"context"
	"errors"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/csi/capability"
	"github.com/cask-storage/cask/csi/internal/mount"
	"github.com/cask-storage/cask/pkg/attach/agent"
)

// NodePublishVolume makes a staged volume appear at the target path.
func (s *Server) NodePublishVolume(ctx context.Context, q *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if q.GetVolumeId() == "" || q.GetTargetPath() == "" || q.GetStagingTargetPath() == "" {
		return nil, invalid("a volume ID, a staging path and a target path are wanted")
	}
	if err := capability.CheckOne(q.GetVolumeCapability()); err != nil {
		return nil, invalid("volume %s: %v", q.GetVolumeId(), err)
	}
	if err := s.renew(ctx, q); err != nil {
		return nil, err
	}
	publish := s.publishMount
	if q.GetVolumeCapability().GetBlock() != nil {
		publish = s.publishBlock
	}
	if err := publish(ctx, q); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (s *Server) publishMount(ctx context.Context, q *csi.NodePublishVolumeRequest) error {
	staging, mounted, err := s.mounts.At(q.GetStagingTargetPath())
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	if !mounted {
		return status.Errorf(codes.FailedPrecondition, "volume %s is not staged: nothing is mounted at %s", q.GetVolumeId(), q.GetStagingTargetPath())
	}
	readOnly := q.GetReadonly() || capability.ReadOnly(q.GetVolumeCapability())
	have, published, err := s.mounts.At(q.GetTargetPath())
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	if published && have.Device == staging.Device {
		if have.ReadOnly != (readOnly || staging.ReadOnly) {
			return status.Errorf(codes.AlreadyExists, "volume %s is published at %s with readOnly %v", q.GetVolumeId(), q.GetTargetPath(), have.ReadOnly)
		}
		return nil
	}
	if err := s.single(ctx, q); err != nil {
		return err
	}
	return s.bind(q.GetVolumeId(), mount.Request{Source: q.GetStagingTargetPath(), Target: q.GetTargetPath(), ReadOnly: readOnly})
}

// single refuses a second place for a volume that may have one only.
func (s *Server) single(ctx context.Context, q *csi.NodePublishVolumeRequest) error {
	if q.GetVolumeCapability().GetAccessMode().GetMode() != csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		return nil
	}
	info, err := s.present(ctx, q.GetVolumeId())
	if err != nil {
		return err
	}
	places, err := s.mounts.Published(info.Device)
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	for _, p := range places {
		if !mount.Same(p, q.GetStagingTargetPath()) && !mount.Same(p, q.GetTargetPath()) {
			return status.Errorf(codes.FailedPrecondition, "volume %s is for one pod at a time (ReadWriteOncePod) and is published at %s; delete the pod that uses it first", q.GetVolumeId(), p)
		}
	}
	return nil
}

// present is the attachment of a volume that is staged.
func (s *Server) present(ctx context.Context, volume string) (agent.Info, error) {
	info, attached, err := s.opt.Attacher.Get(ctx, volume)
	if err != nil {
		return info, fromAgent(err, volume)
	}
	if !attached {
		return info, status.Errorf(codes.FailedPrecondition, "volume %s is not staged: it is not attached to node %s", volume, s.opt.Node)
	}
	return info, nil
}

// bind replaces what a former attachment left at the target.
func (s *Server) bind(volume string, r mount.Request) error {
	if err := s.mounts.Remove(r.Target); err != nil {
		return unmountError(volume, err)
	}
	if err := s.mounts.Bind(r); err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", volume, err)
	}
	return nil
}

// publishBlock binds the device node. That a pod may only read is seen to by
// the kubelet, which gives its container no write access to the device.
func (s *Server) publishBlock(ctx context.Context, q *csi.NodePublishVolumeRequest) error {
	info, err := s.present(ctx, q.GetVolumeId())
	if err != nil {
		return err
	}
	want, err := s.mounts.DeviceOf(info.Device)
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	_, published, err := s.mounts.At(q.GetTargetPath())
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	if published {
		if have, err := s.mounts.DeviceOf(q.GetTargetPath()); err == nil && have == want {
			return nil
		}
	}
	if err := s.single(ctx, q); err != nil {
		return err
	}
	return s.bind(q.GetVolumeId(), mount.Request{Source: info.Device, Target: q.GetTargetPath()})
}

// NodeUnpublishVolume takes it away again.
func (s *Server) NodeUnpublishVolume(_ context.Context, q *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if q.GetVolumeId() == "" || q.GetTargetPath() == "" {
		return nil, invalid("a volume ID and a target path are wanted")
	}
	if err := s.mounts.Remove(q.GetTargetPath()); err != nil {
		return nil, unmountError(q.GetVolumeId(), err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats tells how full a volume is.
func (s *Server) NodeGetVolumeStats(_ context.Context, q *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if q.GetVolumeId() == "" || q.GetVolumePath() == "" {
		return nil, invalid("a volume ID and a volume path are wanted")
	}
	_, mounted, err := s.mounts.At(q.GetVolumePath())
	if err == nil && !mounted {
		return nil, status.Errorf(codes.NotFound, "volume %s is not at %s", q.GetVolumeId(), q.GetVolumePath())
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	u, err := mount.UsageOf(q.GetVolumePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "volume %s: %v", q.GetVolumeId(), err)
	}
	if err != nil {
		return nil, status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	r := &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: u.Bytes, Used: u.BytesUsed, Available: u.BytesFree},
	}}
	if !u.Block {
		r.Usage = append(r.Usage, &csi.VolumeUsage{Unit: csi.VolumeUsage_INODES, Total: u.Inodes, Used: u.InodesUsed, Available: u.InodesFree})
	}
	return r, nil
}

// NodeGetVolumeHealth tells whether this node reaches the volume.
func (s *Server) NodeGetVolumeHealth(ctx context.Context, q *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	info, attached, err := s.opt.Attacher.Get(ctx, q.GetVolumeId())
	if err != nil {
		return nil, fromAgent(err, q.GetVolumeId())
	}
	h := &csi.VolumeHealth{VolumeId: q.GetVolumeId()}
	if reason, message := unwell(info, attached); reason != "" {
		h.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{Status: csi.VolumeHealthErrorType_INACCESSIBLE, Reason: reason, Message: message}}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: h}, nil
}

func unwell(info agent.Info, attached bool) (reason, message string) {
	switch {
	case !attached:
		return "NotAttached", "the volume has no device on this node; if pods use it, what served it has ended, or written data may be lost (see the Volume's condition Complete): delete them so that it is attached again"
	case info.Link.Lost:
		return "Lost", "I/O fails for good; delete the pods that use the volume so that it is attached again: " + info.Link.Message
	case info.Link.Refused:
		return "Superseded", "the target does not admit this node any more: " + info.Link.Message
	case !info.Link.Connected:
		return "Reconnecting", "I/O waits for the target since " + info.Link.Since.UTC().Format("15:04:05") + " UTC: " + info.Link.Message
	}
	return "", ""
}
