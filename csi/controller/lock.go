package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/pkg/attach/keylock"
)

// Locked runs s with one changing call at a time for each volume.
func Locked(s csi.ControllerServer) csi.ControllerServer {
	return &locked{ControllerServer: s}
}

type locked struct {
	csi.ControllerServer
	volumes keylock.Set
}

func underLock[Q, R any](ctx context.Context, l *locked, volume string, do func(context.Context, Q) (*R, error), q Q) (*R, error) {
	if volume == "" {
		return do(ctx, q) // which refuses it
	}
	unlock, err := l.volumes.Lock(ctx, volume)
	if err != nil {
		return nil, status.Errorf(codes.Aborted, "volume %s: another operation is under way", volume)
	}
	defer unlock()
	return do(ctx, q)
}

func (l *locked) CreateVolume(ctx context.Context, q *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return underLock(ctx, l, objectName(q.GetName()), l.ControllerServer.CreateVolume, q)
}

func (l *locked) DeleteVolume(ctx context.Context, q *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return underLock(ctx, l, q.GetVolumeId(), l.ControllerServer.DeleteVolume, q)
}

func (l *locked) ControllerPublishVolume(ctx context.Context, q *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return underLock(ctx, l, q.GetVolumeId(), l.ControllerServer.ControllerPublishVolume, q)
}

func (l *locked) ControllerUnpublishVolume(ctx context.Context, q *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	return underLock(ctx, l, q.GetVolumeId(), l.ControllerServer.ControllerUnpublishVolume, q)
}

func (l *locked) ControllerExpandVolume(ctx context.Context, q *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	return underLock(ctx, l, q.GetVolumeId(), l.ControllerServer.ControllerExpandVolume, q)
}

func (l *locked) ControllerModifyVolume(ctx context.Context, q *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	return underLock(ctx, l, q.GetVolumeId(), l.ControllerServer.ControllerModifyVolume, q)
}
