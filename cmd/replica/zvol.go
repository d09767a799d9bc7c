package main

import (
	"context"
	"log"

	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/zvol"
)

// zvols is a Backing on the ZFS of the node's kernel. A volume there takes what room
// the pool has.
type zvols struct {
	ctx context.Context // ends the wait for a device
	opt zvol.Options
}

// zvols is that of the replica's dataset.
func (o options) zvols(ctx context.Context) zvols {
	return zvols{ctx, zvol.Options{
		Dataset: o.parent + "/" + replica.ExtentName(o.Identity), BlockSize: uint32(o.blockSize), Compression: o.compression,
	}}
}

// Open implements replica.Backing.
func (z zvols) Open() (store.Store, error) { return z.opened(zvol.Open(z.ctx, z.opt)) }

// Create implements replica.Backing.
func (z zvols) Create(size uint64) (store.Store, error) {
	z.opt.Size = size
	return z.opened(zvol.Create(z.ctx, z.opt))
}

func (z zvols) opened(s *zvol.Store, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	log.Printf("zvol: %s, blocks of %d bytes", z.opt.Dataset, s.Info().BlockSize)
	return s, nil
}
