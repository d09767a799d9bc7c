//go:build linux

package node

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/pkg/attach/keylock"
)

// Locked runs s with one changing call at a time for each volume.
func Locked(s csi.NodeServer) csi.NodeServer { return &locked{NodeServer: s} }

type locked struct {
	csi.NodeServer
	volumes keylock.Set
}

// request is any request about a volume.
type request interface{ GetVolumeId() string }

func underLock[Q request, R any](ctx context.Context, l *locked, do func(context.Context, Q) (*R, error), q Q) (*R, error) {
	if q.GetVolumeId() == "" {
		return do(ctx, q) // which refuses it
	}
	unlock, err := l.volumes.Lock(ctx, q.GetVolumeId())
	if err != nil {
		return nil, status.Errorf(codes.Aborted, "volume %s: another operation is under way", q.GetVolumeId())
	}
	defer unlock()
	return do(ctx, q)
}

func (l *locked) NodeStageVolume(ctx context.Context, q *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	return underLock(ctx, l, l.NodeServer.NodeStageVolume, q)
}

func (l *locked) NodeUnstageVolume(ctx context.Context, q *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return underLock(ctx, l, l.NodeServer.NodeUnstageVolume, q)
}

func (l *locked) NodeExpandVolume(ctx context.Context, q *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	return underLock(ctx, l, l.NodeServer.NodeExpandVolume, q)
}

func (l *locked) NodePublishVolume(ctx context.Context, q *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return underLock(ctx, l, l.NodeServer.NodePublishVolume, q)
}

func (l *locked) NodeUnpublishVolume(ctx context.Context, q *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return underLock(ctx, l, l.NodeServer.NodeUnpublishVolume, q)
}
