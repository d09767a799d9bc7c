package capability

import (
	"errors"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

func mountCap(mode csi.VolumeCapability_AccessMode_Mode, fs string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs}},
	}
}

// Every access mode there is gets an answer, and only one-node modes a yes.
func TestAccessModes(t *testing.T) {
	for n, name := range csi.VolumeCapability_AccessMode_Mode_name {
		mode := csi.VolumeCapability_AccessMode_Mode(n)
		err := CheckOne(mountCap(mode, ""))
		if want := strings.HasPrefix(name, "SINGLE_NODE_"); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: no class: %v", name, err)
		}
	}
}

func TestFileSystems(t *testing.T) {
	const rwo = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	for fs, want := range map[string]string{"": Ext4, "ext4": Ext4, "xfs": XFS} {
		c := mountCap(rwo, fs)
		if err := CheckOne(c); err != nil || FileSystem(c) != want {
			t.Errorf("%q: %s, %v", fs, FileSystem(c), err)
		}
	}
	for _, fs := range []string{"btrfs", "ext3", "nfs"} {
		if err := CheckOne(mountCap(rwo, fs)); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), fs) {
			t.Errorf("%s: %v", fs, err)
		}
	}
}

func TestNothing(t *testing.T) {
	for _, caps := range [][]*csi.VolumeCapability{nil, {nil}, {{}}, {{AccessMode: mountCap(1, "").GetAccessMode()}}} {
		if err := Check(caps); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v: %v", caps, err)
		}
	}
}
