//go:build linux

package node

import (
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/csi/internal/mount"
)

const (
	growPoll = 200 * time.Millisecond
	growTime = 20 * time.Second // a device takes its volume's size within that
)

// NodeExpandVolume waits until the device has the volume's size, which it takes
// by itself, and grows the file system on it while it is mounted.
func (s *Server) NodeExpandVolume(ctx context.Context, q *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if q.GetVolumeId() == "" || q.GetVolumePath() == "" {
		return nil, invalid("a volume ID and a volume path are wanted")
	}
	info, attached, err := s.opt.Attacher.Get(ctx, q.GetVolumeId())
	if err != nil {
		return nil, fromAgent(err, q.GetVolumeId())
	}
	if !attached {
		return nil, status.Errorf(codes.NotFound, "volume %s is not attached to node %s", q.GetVolumeId(), s.opt.Node)
	}
	m, mounted, err := s.mounts.At(q.GetVolumePath())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	if !mounted {
		return nil, status.Errorf(codes.NotFound, "volume %s is not at %s", q.GetVolumeId(), q.GetVolumePath())
	}
	size, err := s.grown(ctx, q, info.Device)
	if err != nil {
		return nil, err
	}
	d, err := s.mounts.DeviceOf(info.Device)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	// A raw block volume is the node of the device, on /dev's file system.
	if q.GetVolumeCapability().GetBlock() == nil && m.Device == d && !m.ReadOnly {
		if err := s.opt.Grower.Grow(mount.Request{Source: info.Device, Target: q.GetVolumePath(), FSType: m.FSType}); err != nil {
			return nil, status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

// grown waits until the device is as large as is asked for.
func (s *Server) grown(ctx context.Context, q *csi.NodeExpandVolumeRequest, device string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	tick := time.NewTicker(growPoll)
	defer tick.Stop()
	for {
		size, err := s.opt.Grower.Size(device)
		if err != nil {
			return 0, status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
		}
		if size >= q.GetCapacityRange().GetRequiredBytes() {
			return size, nil
		}
		select {
		case <-ctx.Done():
			return 0, status.Errorf(codes.Unavailable, "volume %s: %s has %d bytes and is to have %d: the target has not told this node yet",
				q.GetVolumeId(), device, size, q.GetCapacityRange().GetRequiredBytes())
		case <-tick.C:
		}
	}
}
