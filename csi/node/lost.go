//go:build linux

package node

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/csi/publishcontext"
	"github.com/cask-storage/cask/pkg/attach/agent"
)

// lostInterval is how often attachments are looked at that their targets
// refuse.
const lostInterval = 3 * time.Second

// Start gives attachments up, until ctx is done, whose volume has lost writes or
// was given to another host meanwhile: their requests fail instead of waiting for ever, so that
// what hangs in them can end and the kubelet can take the volume away. An
// attachment that was only withdrawn may be given back, and waits.
func (s *Server) Start(ctx context.Context) error {
	tick := time.NewTicker(lostInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.giveUpLost(ctx)
		}
	}
}

func (s *Server) giveUpLost(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lostInterval)
	defer cancel()
	all, err := s.opt.Attacher.List(ctx)
	if err != nil {
		s.opt.Log.Warn("cannot look for attachments that were lost", "err", err)
		return
	}
	for _, info := range all {
		if info.Link.Lost {
			s.giveUpLoss(ctx, info)
			continue
		}
		if info.Link.Connected || !info.Link.Refused || s.opt.Owner == nil {
			continue
		}
		owner, err := s.opt.Owner(ctx, info.Spec.Volume)
		if err != nil {
			s.opt.Log.Warn("not known who the volume belongs to; waiting for its target", "volume", info.Spec.Volume, "err", err)
			continue
		}
		if owner == "" || owner == info.Spec.HostNQN {
			continue
		}
		if err := s.giveUp(ctx, info, owner); err != nil {
			s.opt.Log.Warn("an attachment that was lost is still there", "volume", info.Spec.Volume, "err", err)
		}
	}
}

// giveUpLoss takes away the device of an attachment that fails for good: its
// pods get errors until the volume is staged anew.
func (s *Server) giveUpLoss(ctx context.Context, info agent.Info) {
	s.opt.Log.Warn("the attachment has ended for good: its I/O fails until the volume is staged anew",
		"volume", info.Spec.Volume, "here", info.Spec.HostNQN, "why", info.Link.Message)
	if err := s.detachByForce(ctx, info); err != nil {
		s.opt.Log.Warn("an attachment that has ended is still there", "volume", info.Spec.Volume, "err", err)
	}
}

// giveUp fails what is in flight of an attachment, and takes its device away.
func (s *Server) giveUp(ctx context.Context, info agent.Info, owner string) error {
	s.opt.Log.Warn("the volume is another host's now: what is unwritten here is given up",
		"volume", info.Spec.Volume, "here", info.Spec.HostNQN, "now", owner)
	return s.detachByForce(ctx, info)
}

func (s *Server) detachByForce(ctx context.Context, info agent.Info) error {
	err := s.opt.Attacher.Detach(ctx, agent.DetachRequest{Volume: info.Spec.Volume, HostNQN: info.Spec.HostNQN, Force: true})
	if err != nil {
		return fromAgent(err, info.Spec.Volume)
	}
	return nil
}

// renew stages a volume again that an older attachment of this node has staged,
// or is about to after a failure: the kubelet takes it for staged while the pods
// of the older one have not all ended. What was never staged has no staging path.
func (s *Server) renew(ctx context.Context, q *csi.NodePublishVolumeRequest) error {
	if len(q.GetPublishContext()) == 0 {
		return nil
	}
	way, err := publishcontext.Parse(q.GetPublishContext())
	if err != nil {
		return invalid("volume %s: %v", q.GetVolumeId(), err)
	}
	info, attached, err := s.opt.Attacher.Get(ctx, q.GetVolumeId())
	if err != nil {
		return fromAgent(err, q.GetVolumeId())
	}
	_, mounted, err := s.mounts.At(q.GetStagingTargetPath())
	if err != nil {
		return status.Errorf(codes.Internal, "volume %s: %v", q.GetVolumeId(), err)
	}
	if _, err := os.Stat(q.GetStagingTargetPath()); !attached && errors.Is(err, os.ErrNotExist) {
		return nil
	}
	mine := attached && !info.Link.Lost && info.Spec.HostNQN == s.spec(q.GetVolumeId(), way).HostNQN
	if mine && (mounted || q.GetVolumeCapability().GetBlock() != nil) {
		return nil
	}
	_, err = s.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: q.GetVolumeId(), PublishContext: q.GetPublishContext(), StagingTargetPath: q.GetStagingTargetPath(),
		VolumeCapability: q.GetVolumeCapability(), Secrets: q.GetSecrets(), VolumeContext: q.GetVolumeContext(),
	})
	return err
}
