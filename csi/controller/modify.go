package controller

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// ControllerModifyVolume changes what a VolumeAttributesClass says; what it does
// not name stays. It answers when the Volume asks for it: how far the volume has
// come is told by the Volume's condition Settled.
func (s *Server) ControllerModifyVolume(ctx context.Context, q *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	v := &v1alpha1.Volume{}
	if err := s.get(ctx, q.GetVolumeId(), v); err != nil {
		return nil, err
	}
	p := paramsOf(&v.Spec)
	err := p.set(q.GetMutableParameters(), source{"VolumeAttributesClass", mutable})
	if err == nil {
		err = p.check()
	}
	if err != nil {
		return nil, invalid("volume %s: %v", v.Name, err)
	}
	p.into(&v.Spec)
	if err := s.opt.Client.Update(ctx, v); err != nil {
		return nil, fromAPI(err, "modify volume "+v.Name)
	}
	s.opt.Log.Info("modified", "volume", v.Name, "parameters", q.GetMutableParameters())
	return &csi.ControllerModifyVolumeResponse{}, nil
}
