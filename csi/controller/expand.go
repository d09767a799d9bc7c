package controller

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// ControllerExpandVolume has a Volume ask for a larger size and waits until
// hosts see it. The node then grows the file system.
func (s *Server) ControllerExpandVolume(ctx context.Context, q *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	if q.GetCapacityRange() == nil {
		return nil, invalid("volume %s: a capacity range is wanted", q.GetVolumeId())
	}
	w := wanted{csiName: q.GetVolumeId()}
	if err := w.capacity(q.GetCapacityRange()); err != nil {
		return nil, err
	}
	v := &v1alpha1.Volume{}
	if err := s.get(ctx, q.GetVolumeId(), v); err != nil {
		return nil, err
	}
	if have := v.Spec.Size.Value(); w.limit > 0 && have > w.limit {
		return nil, status.Errorf(codes.OutOfRange, "volume %s has %d bytes and cannot shrink to %d", v.Name, have, w.limit)
	} else if have < w.size {
		v.Spec.Size = *resource.NewQuantity(w.size, resource.BinarySI)
		if err := s.opt.Client.Update(ctx, v); err != nil {
			return nil, fromAPI(err, "expand volume "+v.Name)
		}
		s.opt.Log.Info("expanding", "volume", v.Name, "from", have, "to", w.size)
	}
	return s.expanded(ctx, v, w.size)
}

// expanded waits until the volume has size bytes.
func (s *Server) expanded(ctx context.Context, v *v1alpha1.Volume, size int64) (*csi.ControllerExpandVolumeResponse, error) {
	err := s.until(ctx, s.opt.PublishTimeout, func(ctx context.Context) (bool, error) {
		if err := s.get(ctx, v.Name, v); err != nil {
			return false, err
		}
		return v.Status.Size != nil && v.Status.Size.Value() >= size, nil
	})
	if errors.Is(err, errNotYet) {
		c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.ConditionResized)
		if c == nil {
			return nil, status.Errorf(codes.Unavailable, "volume %s has not grown yet: no target has said anything about it", v.Name)
		}
		return nil, status.Errorf(codes.Unavailable, "volume %s has not grown yet: %s: %s", v.Name, c.Reason, c.Message)
	}
	if err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.Status.Size.Value(), NodeExpansionRequired: true}, nil
}
