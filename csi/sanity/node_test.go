//go:build linux

package sanity

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	csispec "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/internal/mount"
	"github.com/cask-storage/cask/csi/node"
	"github.com/cask-storage/cask/pkg/attach/agent"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// volume is one volume's life on a driver.
type volume struct {
	t       testing.TB
	d       *driver
	id      string
	cap     *csispec.VolumeCapability
	publish map[string]string
	staging string
	target  string
}

func capOf(fs string) *csispec.VolumeCapability {
	c := &csispec.VolumeCapability{AccessMode: &csispec.VolumeCapability_AccessMode{Mode: csispec.VolumeCapability_AccessMode_SINGLE_NODE_WRITER}}
	if fs == "block" {
		c.AccessType = &csispec.VolumeCapability_Block{Block: &csispec.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csispec.VolumeCapability_Mount{Mount: &csispec.VolumeCapability_MountVolume{FsType: fs}}
	}
	return c
}

func newVolume(t testing.TB, d *driver, fs string) *volume {
	t.Helper()
	dir := t.TempDir()
	v := &volume{t: t, d: d, cap: capOf(fs), staging: filepath.Join(dir, "staging"), target: filepath.Join(dir, "pod", "target")}
	size := int64(64 << 20)
	if fs == "xfs" {
		size = 320 << 20
	}
	r, err := d.ctl.CreateVolume(t.Context(), &csispec.CreateVolumeRequest{
		Name: "pvc-sanity-" + strings.ToLower(filepath.Base(t.Name())), VolumeCapabilities: []*csispec.VolumeCapability{v.cap},
		CapacityRange: &csispec.CapacityRange{RequiredBytes: size},
	})
	if err != nil {
		t.Fatal(err)
	}
	v.id = r.GetVolume().GetVolumeId()
	t.Cleanup(func() {
		v.takeDown()
		for _, l := range loopsLeft(v.id) {
			t.Errorf("left behind: %s", l)
		}
	})
	v.attach()
	return v
}

// attach is ControllerPublishVolume.
func (v *volume) attach() {
	v.t.Helper()
	p, err := v.d.ctl.ControllerPublishVolume(v.t.Context(), &csispec.ControllerPublishVolumeRequest{VolumeId: v.id, NodeId: nodeName, VolumeCapability: v.cap})
	if err != nil {
		v.t.Fatal(err)
	}
	v.publish = p.GetPublishContext()
}

func (v *volume) stage() error {
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Second)
	defer cancel()
	_, err := v.d.node.NodeStageVolume(ctx, &csispec.NodeStageVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, VolumeCapability: v.cap, PublishContext: v.publish,
	})
	return err
}

func (v *volume) publishAt(path string, readOnly bool) error {
	_, err := v.d.node.NodePublishVolume(v.t.Context(), &csispec.NodePublishVolumeRequest{
		VolumeId: v.id, StagingTargetPath: v.staging, TargetPath: path, VolumeCapability: v.cap, PublishContext: v.publish, Readonly: readOnly,
	})
	return err
}

func (v *volume) up() {
	v.t.Helper()
	if err := errors.Join(v.stage(), v.publishAt(v.target, false)); err != nil {
		v.t.Fatal(err)
	}
}

func (v *volume) unpublish(path string) error {
	_, err := v.d.node.NodeUnpublishVolume(context.Background(), &csispec.NodeUnpublishVolumeRequest{VolumeId: v.id, TargetPath: path})
	return err
}

func (v *volume) unstage() error {
	_, err := v.d.node.NodeUnstageVolume(context.Background(), &csispec.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.staging})
	return err
}

func (v *volume) down() {
	v.t.Helper()
	if err := errors.Join(v.unpublish(v.target), v.unstage()); err != nil {
		v.t.Fatal(err)
	}
}

// takeDown leaves nothing behind, whatever state a test ended in.
func (v *volume) takeDown() {
	_ = v.unpublish(v.target)
	_ = mount.Unmount(v.staging)
	if err := v.unstage(); err != nil {
		v.t.Logf("unstage at the end: %v", err)
		_ = v.d.agent.Detach(context.Background(), agent.DetachRequest{Volume: v.id, Force: true})
	}
}

func (v *volume) info() agent.Info {
	v.t.Helper()
	for _, i := range v.d.agent.List(context.Background()) {
		if i.Spec.Volume == v.id {
			return i
		}
	}
	v.t.Fatalf("volume %s is not attached", v.id)
	return agent.Info{}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func pattern(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(p)
	return p
}

func writeSynced(t testing.TB, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t testing.TB, path string, data []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%s: equal %v, err %v", path, bytes.Equal(got, data), err)
	}
}

// The data is there after a move through the whole life, and the file system is
// clean.
func TestFileSystemLife(t *testing.T) {
	needHost(t)
	for fs, check := range map[string][]string{"ext4": {"e2fsck", "-f", "-n"}, "xfs": {"xfs_repair", "-n"}} {
		t.Run(fs, func(t *testing.T) {
			d := newDriver(t, nil, nil)
			v := newVolume(t, d, fs)
			v.up()
			v.up() // again is the same
			data := pattern(20 << 20)
			writeSynced(t, filepath.Join(v.target, "f"), data)
			stats, err := d.node.NodeGetVolumeStats(t.Context(), &csispec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target})
			if err != nil || len(stats.GetUsage()) != 2 || stats.GetUsage()[0].GetUsed() < int64(len(data)) || stats.GetUsage()[1].GetUsed() == 0 {
				t.Errorf("stats %v, %v", stats, err)
			}
			v.down()
			v.down()                                        // again is nothing
			if err := os.RemoveAll(v.staging); err != nil { // as the kubelet does
				t.Fatal(err)
			}
			if err := v.publishAt(v.target, false); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("publish of what is not staged: %v", err)
			}
			if err := v.stage(); err != nil {
				t.Fatal(err)
			}
			if err := mount.Unmount(v.staging); err != nil {
				t.Fatal(err)
			}
			run(t, check[0], append(check[1:], v.info().Device)...)
			if err := v.publishAt(v.target, false); err != nil { // the staging mount is made again
				t.Fatal(err)
			}
			wantFile(t, filepath.Join(v.target, "f"), data)
			v.down()
		})
	}
}

func TestReadOnlyPublish(t *testing.T) {
	needHost(t)
	v := newVolume(t, newDriver(t, nil, nil), "ext4")
	if err := errors.Join(v.stage(), v.publishAt(v.target, true)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.target, "f"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing: %v", err)
	}
	if err := v.publishAt(v.target, false); status.Code(err) != codes.AlreadyExists {
		t.Errorf("the same place for writing: %v", err)
	}
	v.down()
}

func TestBlockLife(t *testing.T) {
	needHost(t)
	d := newDriver(t, nil, nil)
	v := newVolume(t, d, "block")
	v.up()
	v.up()
	data := pattern(4 << 20)
	writeSynced(t, v.target, data)
	got := make([]byte, len(data))
	f, err := os.Open(v.target)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.ReadAt(got, 0)
	f.Close()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("equal %v, err %v", bytes.Equal(got, data), err)
	}
	stats, err := d.node.NodeGetVolumeStats(t.Context(), &csispec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target})
	if err != nil || len(stats.GetUsage()) != 1 || stats.GetUsage()[0].GetTotal() != 64<<20 {
		t.Errorf("stats %v, %v", stats, err)
	}
	v.down()
	if _, err := os.Stat(v.target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is left: %v", err)
	}
}

func mayResizeExt4(t *testing.T) bool {
	t.Helper()
	hdr, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, [2]unix.CapUserData{}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// A volume grows while it is used: the device by itself, the file system on it
// by NodeExpand.
func TestGrows(t *testing.T) {
	needHost(t)
	for _, fs := range []string{"ext4", "xfs", "block"} {
		t.Run(fs, func(t *testing.T) {
			if fs == "ext4" && !mayResizeExt4(t) {
				t.Skip("needs CAP_SYS_RESOURCE, which the kernel asks of who grows ext4")
			}
			v := newVolume(t, newDriver(t, nil, nil), fs)
			v.up()
			total := func() int64 {
				r, err := v.d.node.NodeGetVolumeStats(t.Context(), &csispec.NodeGetVolumeStatsRequest{VolumeId: v.id, VolumePath: v.target})
				if err != nil {
					t.Fatal(err)
				}
				return r.GetUsage()[0].GetTotal()
			}
			file, data := v.target, pattern(4<<20)
			if fs != "block" {
				file = filepath.Join(v.target, "f")
			}
			writeSynced(t, file, data)
			before := total()
			const large = 640 << 20
			size := &csispec.CapacityRange{RequiredBytes: large}
			c, err := v.d.ctl.ControllerExpandVolume(t.Context(), &csispec.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: size, VolumeCapability: v.cap})
			if err != nil || c.GetCapacityBytes() != large || !c.GetNodeExpansionRequired() {
				t.Fatalf("controller: %v, %v", c, err)
			}
			for range 2 { // the second time there is nothing to do
				n, err := v.d.node.NodeExpandVolume(t.Context(), &csispec.NodeExpandVolumeRequest{VolumeId: v.id, VolumePath: v.target, StagingTargetPath: v.staging,
					CapacityRange: size, VolumeCapability: v.cap})
				if err != nil || n.GetCapacityBytes() != large {
					t.Fatalf("node: %v, %v", n, err)
				}
			}
			if after := total(); after < before*3/2 {
				t.Errorf("%d bytes, %d before it grew", after, before)
			}
			got := make([]byte, len(data))
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.ReadAt(got, 0)
			f.Close()
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("content: equal %v, err %v", bytes.Equal(got, data), err)
			}
			small := &csispec.CapacityRange{RequiredBytes: 1 << 20, LimitBytes: 64 << 20}
			if _, err := v.d.ctl.ControllerExpandVolume(t.Context(), &csispec.ControllerExpandVolumeRequest{VolumeId: v.id, CapacityRange: small}); status.Code(err) != codes.OutOfRange {
				t.Errorf("shrinking: %v", err)
			}
			v.down()
		})
	}
}

// What is on a volume already is never formatted over.
func TestForeignContentIsKept(t *testing.T) {
	needHost(t)
	v := newVolume(t, newDriver(t, nil, nil), "block")
	v.up()
	run(t, "mkswap", v.target)
	v.down()
	v.cap = capOf("ext4")
	if err := v.stage(); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "swap") {
		t.Errorf("stage over a swap signature: %v", err)
	}
	if n := len(v.d.agent.List(t.Context())); n != 0 {
		t.Errorf("%d attachments are left after a stage that failed", n)
	}
	v.cap = capOf("block")
	v.up()
	if out := run(t, "blkid", "-p", v.target); !strings.Contains(out, "swap") {
		t.Errorf("the signature is gone: %s", out)
	}
	v.down()
}

// The node plugin is restarted, then the agent, under a mounted volume with a
// writer.
func TestRestartsUnderAMount(t *testing.T) {
	needHost(t)
	d := newDriver(t, nil, nil)
	v := newVolume(t, d, "ext4")
	v.up()
	before := v.info()
	stop, failed := make(chan struct{}), make(chan error, 1)
	go func() { failed <- writeUntil(filepath.Join(v.target, "w"), stop) }()

	d.node = node.Locked(node.New(node.Options{Node: nodeName, Attacher: agent.NewClient(filepath.Join(d.run, "agent.sock")), Log: logTo(t)}))
	v.up()
	d.stop()
	d.startAgent(t)
	if after := v.info(); after.PID != before.PID || after.Device != before.Device {
		t.Errorf("adopted %+v, was %+v", after, before)
	}
	v.up()
	close(stop)
	if err := <-failed; err != nil {
		t.Errorf("the writer: %v", err)
	}
	v.down()
}

func writeUntil(path string, stop <-chan struct{}) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data := pattern(64 << 10)
	for i := 0; ; i++ {
		select {
		case <-stop:
			return nil
		default:
		}
		if _, err := f.WriteAt(data, int64(i%64)*int64(len(data))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
}

// A killed attachment process is an I/O error to what is mounted, and the next
// stage gives a fresh device and a file system that was repaired.
func TestKilledChild(t *testing.T) {
	needHost(t)
	v := newVolume(t, newDriver(t, nil, nil), "ext4")
	v.up()
	data := pattern(1 << 20)
	writeSynced(t, filepath.Join(v.target, "f"), data)
	if err := syscall.Kill(v.info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if len(v.d.agent.List(t.Context())) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	h, err := v.d.node.NodeGetVolumeHealth(t.Context(), &csispec.NodeGetVolumeHealthRequest{VolumeId: v.id})
	if err != nil || len(h.GetVolumeHealth().GetHealthStatuses()) != 1 {
		t.Errorf("health %v, %v", h, err)
	}
	if err := v.unpublish(v.target); err != nil {
		t.Fatal(err)
	}
	v.up() // the stale staging mount is replaced
	wantFile(t, filepath.Join(v.target, "f"), data)
	v.down()
}

// While the target is away, I/O waits, and health says so.
func TestTargetAway(t *testing.T) {
	needHost(t)
	d := newDriver(t, nil, nil)
	v := newVolume(t, d, "ext4")
	v.up()
	dev := d.cluster.device(v.id)
	dev.Stall()
	done := make(chan error, 1)
	go func() {
		f, err := os.Create(filepath.Join(v.target, "f"))
		if err == nil {
			_, err = f.Write(pattern(1 << 20))
			err = errors.Join(err, f.Sync(), f.Close())
		}
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("the write ended while the target answered nothing: %v", err)
	case <-time.After(2 * time.Second):
	}
	dev.Resume()
	if err := <-done; err != nil {
		t.Errorf("the write: %v", err)
	}
	v.down()
}

// A volume that was given to another node while this one still has it mounted:
// what is unwritten here is failed, and the unmount ends.
func TestSupersededNodeLetsGo(t *testing.T) {
	needHost(t)
	d := newDriver(t, nil, nil)
	v := newVolume(t, d, "ext4")
	v.up()
	if err := os.WriteFile(filepath.Join(v.target, "unsynced"), pattern(1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	var vol v1alpha1.Volume
	if err := d.cluster.Get(t.Context(), client.ObjectKey{Name: v.id}, &vol); err != nil {
		t.Fatal(err)
	}
	vol.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: otherNode, ID: "other"}
	if err := d.cluster.Update(t.Context(), &vol); err != nil {
		t.Fatal(err)
	}
	for range 500 {
		if v.info().Link.Refused {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if l := v.info().Link; !l.Refused {
		t.Fatalf("link %+v", l)
	}
	h, err := d.node.NodeGetVolumeHealth(t.Context(), &csispec.NodeGetVolumeHealthRequest{VolumeId: v.id})
	if err != nil || len(h.GetVolumeHealth().GetHealthStatuses()) != 1 || h.GetVolumeHealth().GetHealthStatuses()[0].GetReason() != "Superseded" {
		t.Errorf("health %v, %v", h, err)
	}
	v.down()
}

// The volume comes back to the same node as another attachment while the old
// one is still mounted.
func TestNewAttachmentReplacesOld(t *testing.T) {
	needHost(t)
	d := newDriver(t, nil, nil)
	v := newVolume(t, d, "ext4")
	v.up()
	data := pattern(1 << 20)
	writeSynced(t, filepath.Join(v.target, "f"), data)
	if _, err := d.ctl.ControllerUnpublishVolume(t.Context(), &csispec.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: nodeName}); err != nil {
		t.Fatal(err)
	}
	old := v.info().Spec.HostNQN
	v.attach()
	for range 500 {
		if v.info().Link.Refused {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := v.unpublish(v.target); err != nil {
		t.Fatal(err)
	}
	v.up()
	if now := v.info().Spec.HostNQN; now == old {
		t.Errorf("still attached as %s", now)
	}
	wantFile(t, filepath.Join(v.target, "f"), data)
	v.down()
}

// The volume comes back to the same node while a process hangs in the old
// attachment: the process ends, and the new pod gets the volume, although the
// kubelet takes it for staged. Found by the storm on the cluster.
func TestNewAttachmentUnderAHangingPod(t *testing.T) {
	needHost(t)
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newDriver(t, nil, nil)
			v := newVolume(t, d, fs)
			v.up()
			data := pattern(1 << 20)
			writeSynced(t, filepath.Join(v.target, "f"), data)
			stop := make(chan struct{})
			defer close(stop)
			ended := make(chan error, 1)
			go func() { ended <- writeUntil(filepath.Join(v.target, "g"), stop) }() // until it fails
			if _, err := d.ctl.ControllerUnpublishVolume(t.Context(), &csispec.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: nodeName}); err != nil {
				t.Fatal(err)
			}
			v.attach()
			select {
			case err := <-ended:
				t.Logf("the old pod: %v", err)
			case <-time.After(30 * time.Second):
				t.Fatal("the old pod hangs for ever")
			}
			next := v.target + "-2"
			if fs == "xfs" { // is not mounted twice: the kubelet tries until the old pod is gone
				if err := v.publishAt(next, false); err == nil {
					t.Error("published beside the old pod's file system")
				}
				if err := v.unpublish(v.target); err != nil {
					t.Fatal(err)
				}
			}
			if err := v.publishAt(next, false); err != nil {
				t.Fatal(err)
			}
			wantFile(t, filepath.Join(next, "f"), data)
			writeSynced(t, filepath.Join(next, "h"), data)
			if err := errors.Join(v.unpublish(v.target), v.unpublish(next), v.unstage()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A volume that may have lost writes is not simply gone on with: what is written
// and flushed here fails, and a new pod gets it from a new session, its file
// system checked, although the kubelet takes it for staged.
func TestLossNeedsANewStage(t *testing.T) {
	needHost(t)
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newDriver(t, nil, nil)
			v := newVolume(t, d, fs)
			v.up()
			data := pattern(1 << 20)
			writeSynced(t, filepath.Join(v.target, "f"), data)
			stop := make(chan struct{})
			defer close(stop)
			ended := make(chan error, 1)
			go func() { ended <- writeUntil(filepath.Join(v.target, "g"), stop) }() // until it fails
			if err := d.cluster.lose(t.Context(), v.id); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Fatal("the old pod ended without an error")
				}
				t.Logf("the old pod: %v", err)
			case <-time.After(30 * time.Second):
				t.Fatal("the old pod goes on, or hangs for ever")
			}
			if err := v.unpublish(v.target); err != nil {
				t.Fatal(err)
			}
			if err := v.publishAt(v.target, false); err != nil {
				t.Fatal(err)
			}
			wantFile(t, filepath.Join(v.target, "f"), data)
			writeSynced(t, filepath.Join(v.target, "h"), data)
			h, err := d.node.NodeGetVolumeHealth(t.Context(), &csispec.NodeGetVolumeHealthRequest{VolumeId: v.id})
			if err != nil || len(h.GetVolumeHealth().GetHealthStatuses()) != 0 {
				t.Errorf("health %v, %v", h, err)
			}
			v.down()
		})
	}
}
