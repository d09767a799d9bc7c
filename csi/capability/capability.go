// Package capability decides which CSI volume capabilities a Cask volume has.
// It is pure.
package capability

import (
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// ErrUnsupported: the volume cannot be used so.
var ErrUnsupported = errors.New("unsupported volume capability")

// The file systems; the first is the default.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

var fileSystems = []string{Ext4, XFS}

// single are the access modes of one node.
var single = []csi.VolumeCapability_AccessMode_Mode{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
}

// Check checks the capabilities of a request, of which there must be one at
// least.
func Check(caps []*csi.VolumeCapability) error {
	if len(caps) == 0 {
		return fmt.Errorf("%w: none is given", ErrUnsupported)
	}
	for _, c := range caps {
		if err := CheckOne(c); err != nil {
			return err
		}
	}
	return nil
}

// CheckOne checks one.
func CheckOne(c *csi.VolumeCapability) error {
	if c == nil {
		return fmt.Errorf("%w: none is given", ErrUnsupported)
	}
	mode := c.GetAccessMode().GetMode()
	if !slices.Contains(single, mode) {
		return fmt.Errorf("%w: access mode %v: a Cask volume is a disk of one node at a time; use ReadWriteOnce or ReadWriteOncePod in the PVC", ErrUnsupported, mode)
	}
	if c.GetBlock() == nil && c.GetMount() == nil {
		return fmt.Errorf("%w: neither block nor mount access is asked for", ErrUnsupported)
	}
	if m := c.GetMount(); m != nil {
		if fs := m.GetFsType(); fs != "" && !slices.Contains(fileSystems, fs) {
			return fmt.Errorf("%w: file system %q: use one of %v in the StorageClass's csi.storage.k8s.io/fstype", ErrUnsupported, fs, fileSystems)
		}
	}
	return nil
}

// FileSystem is the one to use for c.
func FileSystem(c *csi.VolumeCapability) string {
	if fs := c.GetMount().GetFsType(); fs != "" {
		return fs
	}
	return Ext4
}

// ReadOnly says that c never writes.
func ReadOnly(c *csi.VolumeCapability) bool {
	return c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}
