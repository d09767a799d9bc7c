//go:build linux

// Package node is the CSI Node service: it asks the attach agent for devices
// and mounts them.
//
//	Stage    attach → /dev/…, format if blank, check, mount at the staging path
//	Publish  bind mount of the staging path, or of the device node
//
// # State
//
// Server keeps none: what is attached the agent knows, what is mounted the
// mount table says. So a restart of this process disturbs nothing, and every
// call finds out where an earlier one, or a crash, left off. A staging mount
// whose device is not the volume's present attachment is stale, and replaced:
// by Stage, or by Publish when the kubelet takes it for staged.
//
// # Concurrency
//
// Use Server through Locked, which runs one call at a time for each volume.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/csi/capability"
	"github.com/cask-storage/cask/csi/identity"
	"github.com/cask-storage/cask/csi/internal/mount"
	"github.com/cask-storage/cask/csi/publishcontext"
	"github.com/cask-storage/cask/pkg/attach/agent"
)

// Attacher gives volumes devices on this node: the attach agent's client.
type Attacher interface {
	Attach(ctx context.Context, r agent.Request) (agent.Info, error)
	// Detach of what is not attached is no error.
	Detach(ctx context.Context, q agent.DetachRequest) error
	Get(ctx context.Context, volume string) (agent.Info, bool, error)
	List(ctx context.Context) ([]agent.Info, error)
}

// Options are a Server's.
type Options struct {
	Node       string
	MaxVolumes int64
	Attacher   Attacher
	// Attached is told of each new attachment; nil when nobody wants to
	// know.
	Attached func(Attachment)
	// Owner tells the NQN of the one host that may use a volume now, empty
	// when none may: only then is what is unwritten here given up. Nobody
	// is asked when it is nil, and nothing given up.
	Owner func(ctx context.Context, volume string) (hostNQN string, err error)
	// Mounts and Grower are this host's when nil.
	Mounts Mounts
	Grower Grower
	Log    *slog.Logger
}

// Attachment is a new one, and what to say of it.
type Attachment struct{ Volume, UID, Message string }

// Server is the Node service. Use it through Locked; Start is to run beside it.
type Server struct {
	csi.UnimplementedNodeServer
	opt    Options
	mounts Mounts
}

// Mounts is package mount, or a stand-in for it.
type Mounts interface {
	At(path string) (mount.Mount, bool, error)
	DeviceOf(path string) (mount.Device, error)
	FormatAndMount(r mount.Request) error
	Bind(r mount.Request) error
	Remove(path string) error
	// Published tells where the device's file system, or its node, is
	// mounted.
	Published(device string) ([]string, error)
}

// Grower is the part of package mount that a larger volume needs, or a stand-in.
type Grower interface {
	// Size of the device at path, in bytes.
	Size(path string) (int64, error)
	Grow(r mount.Request) error
}

type hostGrower struct{}

func (hostGrower) Size(path string) (int64, error) { return mount.DeviceSize(path) }
func (hostGrower) Grow(r mount.Request) error      { return mount.Grow(r) }

type hostMounts struct{}

func (hostMounts) At(path string) (mount.Mount, bool, error)  { return mount.At(path) }
func (hostMounts) DeviceOf(path string) (mount.Device, error) { return mount.DeviceOf(path) }
func (hostMounts) FormatAndMount(r mount.Request) error       { return mount.FormatAndMount(r) }
func (hostMounts) Bind(r mount.Request) error                 { return mount.Bind(r) }
func (hostMounts) Remove(path string) error                   { return mount.Remove(path) }
func (hostMounts) Published(device string) ([]string, error)  { return mount.Published(device) }

// New makes a Server.
func New(o Options) *Server {
	if o.Mounts == nil {
		o.Mounts = hostMounts{}
	}
	if o.Grower == nil {
		o.Grower = hostGrower{}
	}
	return &Server{opt: o, mounts: o.Mounts}
}

// NodeGetCapabilities tells what is here.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return r, nil
}

// NodeGetInfo tells who this node is.
func (s *Server) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId: s.opt.Node, MaxVolumesPerNode: s.opt.MaxVolumes,
		AccessibleTopology: &csi.Topology{Segments: map[string]string{identity.TopologyKey: s.opt.Node}},
	}, nil
}

// NodeStageVolume attaches a volume and, unless it is a raw block volume,
// mounts its file system at the staging path.
func (s *Server) NodeStageVolume(ctx context.Context, q *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if q.GetVolumeId() == "" || q.GetStagingTargetPath() == "" {
		return nil, invalid("a volume ID and a staging path are wanted")
	}
	if err := capability.CheckOne(q.GetVolumeCapability()); err != nil {
		return nil, invalid("volume %s: %v", q.GetVolumeId(), err)
	}
	way, err := publishcontext.Parse(q.GetPublishContext())
	if err != nil {
		return nil, invalid("volume %s: %v", q.GetVolumeId(), err)
	}
	spec := s.spec(q.GetVolumeId(), way)
	keys, err := keysOf(q, way)
	if err != nil {
		return nil, err
	}
	staged, err := s.staged(ctx, spec, q.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	ok := &csi.NodeStageVolumeResponse{}
	if staged {
		return ok, nil
	}
	info, fresh, err := s.attach(ctx, agent.Request{Spec: spec, Secrets: keys})
	if err != nil {
		return nil, err
	}
	if fresh && s.opt.Attached != nil {
		s.opt.Attached(Attachment{Volume: spec.Volume, UID: way.UID, Message: describe(s.opt.Node, info)})
	}
	if q.GetVolumeCapability().GetBlock() != nil {
		return ok, nil
	}
	if err := s.mount(q, info); err != nil {
		if fresh {
			s.undo(ctx, spec.Volume)
		}
		return nil, err
	}
	return ok, nil
}

// spec is what the controller said about the way to the volume.
func (s *Server) spec(volume string, c publishcontext.Context) agent.Spec {
	return agent.Spec{
		Volume: volume, Address: c.Address, NQN: c.NQN, NSID: c.NSID, ReadOnly: c.ReadOnly, Frontend: c.Frontend,
		HostNQN: publishcontext.HostNQN(s.opt.Node, c.Attachment),
	}
}

// staged says that the staging mount is there and is the volume's; one that is
// not is taken away.
func (s *Server) staged(ctx context.Context, spec agent.Spec, path string) (bool, error) {
	m, mounted, err := s.mounts.At(path)
	if err != nil {
		return false, status.Errorf(codes.Internal, "volume %s: %v", spec.Volume, err)
	}
	if !mounted {
		return false, nil
	}
	info, attached, err := s.opt.Attacher.Get(ctx, spec.Volume)
	if err != nil {
		return false, fromAgent(err, spec.Volume)
	}
	if attached && info.Spec == spec && !info.Link.Lost {
		d, err := s.mounts.DeviceOf(info.Device)
		if err == nil && d == m.Device {
			return true, nil
		}
	}
	s.opt.Log.Warn("replacing a stale staging mount", "volume", spec.Volume, "path", path, "attached", attached, "attachment", info.Spec.HostNQN)
	// The controller's word is that the volume is the new attachment's.
	owner := func(context.Context, string) (string, error) { return spec.HostNQN, nil }
	if err := s.unmount(ctx, unmounting{volume: spec.Volume, path: path, owner: owner}); err != nil {
		return false, err
	}
	return false, nil
}

func (s *Server) attach(ctx context.Context, r agent.Request) (info agent.Info, fresh bool, err error) {
	_, attached, err := s.opt.Attacher.Get(ctx, r.Volume)
	if err != nil {
		return info, false, fromAgent(err, r.Volume)
	}
	info, err = s.opt.Attacher.Attach(ctx, r)
	if err != nil {
		return info, false, fromAgent(err, r.Volume)
	}
	s.opt.Log.Info(describe(s.opt.Node, info), "volume", r.Volume)
	return info, !attached, nil
}

// describe says which path was taken, and why.
func describe(node string, i agent.Info) string {
	return fmt.Sprintf("attached to node %s as %s, path %s: %s", node, i.Device, i.Path, i.Why)
}

func (s *Server) mount(q *csi.NodeStageVolumeRequest, info agent.Info) error {
	err := s.mounts.FormatAndMount(mount.Request{
		Source: info.Device, Target: q.GetStagingTargetPath(), FSType: capability.FileSystem(q.GetVolumeCapability()),
		Options: q.GetVolumeCapability().GetMount().GetMountFlags(), ReadOnly: info.Spec.ReadOnly,
	})
	if errors.Is(err, mount.ErrFormat) {
		return status.Errorf(codes.FailedPrecondition, "volume %s: %v; use the StorageClass parameter csi.storage.k8s.io/fstype it was made with, or wipe it", q.GetVolumeId(), err)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	return nil
}

// undo detaches after a stage that failed, for the kubelet may not come back
// to unstage it.
func (s *Server) undo(ctx context.Context, volume string) {
	if err := s.opt.Attacher.Detach(context.WithoutCancel(ctx), agent.DetachRequest{Volume: volume}); err != nil {
		s.opt.Log.Warn("left attached after a stage that failed", "volume", volume, "err", err)
	}
}

// NodeUnstageVolume unmounts and detaches.
func (s *Server) NodeUnstageVolume(ctx context.Context, q *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if q.GetVolumeId() == "" || q.GetStagingTargetPath() == "" {
		return nil, invalid("a volume ID and a staging path are wanted")
	}
	u := unmounting{volume: q.GetVolumeId(), path: q.GetStagingTargetPath(), owner: s.opt.Owner}
	if err := s.unmount(ctx, u); err != nil {
		return nil, err
	}
	if err := s.opt.Attacher.Detach(ctx, agent.DetachRequest{Volume: q.GetVolumeId()}); err != nil {
		return nil, fromAgent(err, q.GetVolumeId())
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func unmountError(volume string, err error) error {
	if errors.Is(err, mount.ErrBusy) {
		return status.Errorf(codes.FailedPrecondition, "volume %s: %v; end what uses it", volume, err)
	}
	return status.Errorf(codes.Internal, "volume %s: %v", volume, err)
}

// fromAgent gives an agent's error its CSI code; all are retried by the
// kubelet.
func fromAgent(err error, volume string) error {
	code := codes.Internal
	switch {
	case errors.Is(err, agent.ErrInvalid):
		code = codes.InvalidArgument
	case errors.Is(err, agent.ErrBusy):
		code = codes.Aborted
	case errors.Is(err, agent.ErrRefused):
		code = codes.FailedPrecondition
	case errors.Is(err, agent.ErrUnreachable):
		code = codes.Unavailable
	case errors.Is(err, agent.ErrNoAgent):
		return status.Errorf(codes.Unavailable, "volume %s: the attach agent does not answer: %v; see the pod cask-attach of this node in cask-system", volume, err)
	}
	return status.Errorf(code, "volume %s: %v", volume, err)
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}
