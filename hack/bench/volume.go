package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi/initiator"
	"github.com/cask-storage/cask/pkg/local"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/volume"
)

// The frontends that volumes are reached through, as -frontends and rows name them.
const (
	overNVMe  = "nvme/tcp"
	overISCSI = "iscsi"
)

// us is the name of our iSCSI initiator.
const us = "iqn.2026-01.storage.cask:bench"

type volumeOptions struct {
	name, bin string
	replicas  int
	frontend  string
	o         options
}

// caskVolume is a volume of pkg/local.
type caskVolume struct {
	served
	dir string
}

func newVolume(ctx context.Context, vo volumeOptions) (*caskVolume, error) {
	speaks := map[string]string{overNVMe: "nvme", overISCSI: "iscsi"}[vo.frontend]
	dir := filepath.Join(vo.o.dir, fmt.Sprintf("%s-%s-%d", vo.name, speaks, vo.replicas))
	exe, err := filepath.Abs(filepath.Join(vo.bin, "cask"))
	if err != nil {
		return nil, err
	}
	st, err := local.Up(ctx, local.Options{Dir: dir, Exe: exe, Args: []string{"local", "supervise", "--dir=" + dir},
		Spec: local.Spec{Name: "bench", Size: uint64(vo.o.span), RecordSize: vo.o.record, Replicas: vo.replicas, Consistency: "quorum",
			Durability: "flush", Compression: "lz4", Frontend: speaks}})
	if err != nil {
		return nil, err
	}
	dev, err := attach(ctx, st)
	return &caskVolume{served{vo.name, vo.replicas, vo.frontend, append([]int{st.PIDs.Target}, st.PIDs.Replicas...), dev, vo.o}, dir}, err
}

func attach(ctx context.Context, st local.State) (*ride.Device, error) {
	if st.ISCSI.Portal != "" {
		return initiator.Attach(ctx, initiator.Config{Addr: st.ISCSI.Portal, Target: st.ISCSI.Node, Initiator: us})
	}
	return host.Attach(ctx, host.Config{Addr: st.NVMe.Addr, SubsystemNQN: st.NVMe.NQN, NSID: nvme.NSID(st.NVMe.NSID),
		HostNQN: volume.HostNQN("bench", "local"), HostID: nvme.UUID{1}})
}

func (v *caskVolume) close() error {
	if v.dev != nil {
		_ = v.dev.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return local.Down(ctx, v.dir)
}
