package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/capability"
)

// Options are a Server's.
type Options struct {
	Client           client.Client
	PlacementTimeout time.Duration
	PublishTimeout   time.Duration
	DeleteTimeout    time.Duration
	// PollInterval is how often a Volume is looked at while waiting;
	// 300 ms when zero.
	PollInterval time.Duration
	Log          *slog.Logger
}

// Server is the Controller service. Use it through Locked.
type Server struct {
	csi.UnimplementedControllerServer
	opt Options
}

const (
	defaultPoll = 300 * time.Millisecond
	// answerTime is kept of a caller's deadline for the answer itself.
	answerTime = time.Second
)

// New makes a Server.
func New(o Options) *Server {
	if o.PollInterval == 0 {
		o.PollInterval = defaultPoll
	}
	return &Server{opt: o}
}

// ControllerGetCapabilities tells what is here.
func (s *Server) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}},
		})
	}
	return r, nil
}

// CreateVolume makes a Volume, or finds the one it made before, and waits
// until it is placed.
func (s *Server) CreateVolume(ctx context.Context, q *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	w, err := parseCreate(q)
	if err != nil {
		return nil, err
	}
	v := w.object()
	err = s.opt.Client.Create(ctx, v)
	if apierrors.IsAlreadyExists(err) {
		if err := s.get(ctx, w.name, v); err != nil {
			return nil, err
		}
		if d := w.differs(v); d != "" {
			return nil, status.Errorf(codes.AlreadyExists, "volume %s is there already, and %s; delete it or use another name", w.name, d)
		}
		if !v.DeletionTimestamp.IsZero() {
			return nil, status.Errorf(codes.Aborted, "volume %s is being deleted; it can be made again once it is gone", w.name)
		}
	} else if err != nil {
		return nil, fromAPI(err, "create volume "+w.name)
	}
	if v, err = s.placed(ctx, w); err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: v.Name, CapacityBytes: v.Spec.Size.Value()}}, nil
}

// placed waits for the Placed condition.
func (s *Server) placed(ctx context.Context, w wanted) (*v1alpha1.Volume, error) {
	v := &v1alpha1.Volume{}
	err := s.until(ctx, s.opt.PlacementTimeout, func(ctx context.Context) (bool, error) {
		if err := s.get(ctx, w.name, v); err != nil {
			return false, err
		}
		return meta.IsStatusConditionTrue(v.Status.Conditions, v1alpha1.ConditionPlaced), nil
	})
	if !errors.Is(err, errNotYet) {
		return v, err
	}
	if gone, err := s.claimGone(ctx, w.claim); err != nil {
		return nil, err
	} else if gone {
		return nil, s.giveUp(ctx, w, v)
	}
	c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.ConditionPlaced)
	if c == nil {
		return nil, status.Errorf(codes.Unavailable, "volume %s has not been looked at by the operator for %v; "+
			"see kubectl -n cask-system get pods and the log of cask-operator", w.name, s.opt.PlacementTimeout)
	}
	return nil, status.Errorf(codes.Unavailable, "volume %s is not placed yet: %s: %s", w.name, c.Reason, c.Message)
}

// claimGone says that the PVC which the volume was to be for is deleted.
func (s *Server) claimGone(ctx context.Context, c claim) (bool, error) {
	if c.name == "" {
		return false, nil
	}
	var pvc corev1.PersistentVolumeClaim
	err := s.opt.Client.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: c.name}, &pvc)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fromAPI(err, fmt.Sprintf("look at the claim %s/%s", c.namespace, c.name))
	}
	return !pvc.DeletionTimestamp.IsZero(), nil
}

// giveUp removes a volume that could not be placed and that nobody waits for;
// it holds no data. The error is a final one.
func (s *Server) giveUp(ctx context.Context, w wanted, v *v1alpha1.Volume) error {
	err := s.opt.Client.Delete(ctx, v, client.Preconditions{UID: &v.UID})
	if err != nil && !apierrors.IsNotFound(err) {
		return fromAPI(err, "delete volume "+w.name)
	}
	return status.Errorf(codes.NotFound, "the claim %s/%s is gone before volume %s could be placed; the volume is deleted", w.claim.namespace, w.claim.name, w.name)
}

// DeleteVolume deletes a Volume and waits until the operator has let it go.
func (s *Server) DeleteVolume(ctx context.Context, q *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	name := q.GetVolumeId()
	if name == "" {
		return nil, invalid("a volume ID is wanted")
	}
	v := &v1alpha1.Volume{}
	err := s.get(ctx, name, v)
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if a := v.Spec.Attachment; a != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to node %s; delete the pods that use it first", name, a.Node)
	}
	if v.DeletionTimestamp.IsZero() {
		// The version guards against an attachment made since.
		err := s.opt.Client.Delete(ctx, v, client.Preconditions{UID: &v.UID, ResourceVersion: &v.ResourceVersion})
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fromAPI(err, "delete volume "+name)
		}
	}
	return s.deleted(ctx, v)
}

func (s *Server) deleted(ctx context.Context, v *v1alpha1.Volume) (*csi.DeleteVolumeResponse, error) {
	uid := v.UID
	err := s.until(ctx, s.opt.DeleteTimeout, func(ctx context.Context) (bool, error) {
		err := s.get(ctx, v.Name, v)
		if status.Code(err) == codes.NotFound {
			return true, nil
		}
		return v.UID != uid, err
	})
	if err == nil {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if !errors.Is(err, errNotYet) {
		return nil, err
	}
	why := "the operator has not said what it waits for; see the log of cask-operator"
	if c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.ConditionDeleting); c != nil {
		why = c.Reason + ": " + c.Message
	}
	return nil, status.Errorf(codes.Unavailable, "volume %s is still being deleted: %s", v.Name, why)
}

// ValidateVolumeCapabilities confirms what CreateVolume would take.
func (s *Server) ValidateVolumeCapabilities(ctx context.Context, q *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, invalid("a volume ID is wanted")
	}
	if len(q.GetVolumeCapabilities()) == 0 {
		return nil, invalid("volume %s: volume capabilities are wanted", q.GetVolumeId())
	}
	if err := s.get(ctx, q.GetVolumeId(), &v1alpha1.Volume{}); err != nil {
		return nil, err
	}
	if err := capability.Check(q.GetVolumeCapabilities()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	if _, err := ParseParams(q.GetParameters(), q.GetMutableParameters()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: q.GetVolumeContext(), VolumeCapabilities: q.GetVolumeCapabilities(), Parameters: q.GetParameters(),
	}}, nil
}

func (s *Server) get(ctx context.Context, name string, v *v1alpha1.Volume) error {
	err := s.opt.Client.Get(ctx, client.ObjectKey{Name: name}, v)
	if apierrors.IsNotFound(err) {
		return status.Errorf(codes.NotFound, "volume %s does not exist", name)
	}
	return fromAPI(err, "get volume "+name)
}

// errNotYet: the time to wait is over.
var errNotYet = errors.New("not yet")

// until polls done for at most limit, or as long as ctx leaves time to answer.
func (s *Server) until(ctx context.Context, limit time.Duration, done wait.ConditionWithContextFunc) error {
	if at, ok := ctx.Deadline(); ok {
		limit = min(limit, max(0, time.Until(at)-answerTime))
	}
	short, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := wait.PollUntilContextCancel(short, s.opt.PollInterval, true, func(context.Context) (bool, error) {
		return done(ctx) // a call begun in time is let finish: its answer says more than "too late"
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case short.Err() != nil:
		return errNotYet
	}
	return err
}

// fromAPI gives an API server's error the CSI code that has it retried, or not.
func fromAPI(err error, doing string) error {
	if err == nil {
		return nil
	}
	code := codes.Internal
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
		code = codes.Aborted
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		code = codes.InvalidArgument
	case apierrors.IsNotFound(err):
		code = codes.NotFound
	case apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err):
		code = codes.Unavailable
	case apierrors.ReasonForError(err) == metav1.StatusReasonUnknown:
		code = codes.Unavailable // no answer of an API server at all
	}
	return status.Errorf(code, "%s: %v", doing, err)
}
