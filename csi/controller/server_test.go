package controller

import (
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/identity"
	"github.com/cask-storage/cask/csi/publishcontext"
)

const name = "pvc-1"

// fixture is a Server on an API server in memory, without an operator.
type fixture struct {
	*testing.T
	api client.Client
	csi.ControllerServer
}

func newFixture(t *testing.T, objects ...client.Object) fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	api := fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Volume{}).WithObjects(objects...).Build()
	s := New(Options{
		Client: api, PlacementTimeout: 50 * time.Millisecond, PublishTimeout: 50 * time.Millisecond, DeleteTimeout: 50 * time.Millisecond,
		PollInterval: 5 * time.Millisecond, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	return fixture{t, api, Locked(s)}
}

func nodes() []client.Object {
	return []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}},
	}
}

// made is a placed volume.
func made(change func(*v1alpha1.Volume)) *v1alpha1.Volume {
	v := &v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u1"}}
	v.Spec = v1alpha1.VolumeSpec{Size: resource.MustParse("1Gi"), Replicas: 3, Consistency: "quorum", Durability: "flush", Compression: "lz4"}
	v.Status.Target.Address = "10.0.0.1:4420"
	meta.SetStatusCondition(&v.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionPlaced, Status: metav1.ConditionTrue, Reason: "Placed"})
	if change != nil {
		change(v)
	}
	return v
}

func writer() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	}
}

func createRequest(params map[string]string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{Name: name, Parameters: params, VolumeCapabilities: []*csi.VolumeCapability{writer()}}
}

func (f fixture) wantError(err error, code codes.Code, parts ...string) {
	f.Helper()
	if status.Code(err) != code {
		f.Errorf("code %v, want %v: %v", status.Code(err), code, err)
	}
	for _, p := range parts {
		if err == nil || !strings.Contains(err.Error(), p) {
			f.Errorf("%q is not in %v", p, err)
		}
	}
}

func (f fixture) volume() (v v1alpha1.Volume, exists bool) {
	f.Helper()
	err := f.api.Get(f.Context(), client.ObjectKey{Name: name}, &v)
	if client.IgnoreNotFound(err) != nil {
		f.Fatal(err)
	}
	return v, err == nil
}

func TestCreateRefusesBeforeItMakes(t *testing.T) {
	shared := createRequest(nil)
	shared.VolumeCapabilities[0].AccessMode.Mode = csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	btrfs := createRequest(nil)
	btrfs.VolumeCapabilities[0].GetMount().FsType = "btrfs"
	clone := createRequest(nil)
	clone.VolumeContentSource = &csi.VolumeContentSource{}
	for what, c := range map[string]struct {
		q     *csi.CreateVolumeRequest
		parts []string
	}{
		"parameter":   {createRequest(map[string]string{"iops": "5"}), []string{`"iops"`, "known are", "consistency"}},
		"shared":      {shared, []string{"MULTI_NODE_MULTI_WRITER", "ReadWriteOnce"}},
		"file system": {btrfs, []string{"btrfs", "ext4"}},
		"clone":       {clone, []string{"clones"}},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			_, err := f.CreateVolume(t.Context(), c.q)
			f.wantError(err, codes.InvalidArgument, c.parts...)
			if _, exists := f.volume(); exists {
				t.Error("a Volume was made")
			}
		})
	}
}

func TestCreateMakesTheVolumeAsked(t *testing.T) {
	f := newFixture(t)
	q := createRequest(map[string]string{"replicas": "2", "consistency": "all", "poolSelector": "disk=ssd"})
	q.CapacityRange = &csi.CapacityRange{RequiredBytes: 3*mib + 1}
	q.AccessibilityRequirements = &csi.TopologyRequirement{Preferred: []*csi.Topology{{Segments: map[string]string{identity.TopologyKey: "b"}}}}
	_, err := f.CreateVolume(t.Context(), q)
	f.wantError(err, codes.Unavailable, name, "operator")
	v, _ := f.volume()
	if v.Spec.Size.Value() != 4*mib || v.Spec.Replicas != 2 || v.Spec.Consistency != "all" || v.Spec.PreferredNode != "b" ||
		v.Spec.PoolSelector == nil || v.Spec.PoolSelector.MatchLabels["disk"] != "ssd" {
		t.Errorf("%+v", v.Spec)
	}
	meta.SetStatusCondition(&v.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionPlaced, Status: metav1.ConditionFalse, Reason: "TooFewNodes", Message: "2 replicas want 2 nodes, 1 is eligible; add a node",
	})
	if err := f.api.Status().Update(t.Context(), &v); err != nil {
		t.Fatal(err)
	}
	_, err = f.CreateVolume(t.Context(), q)
	f.wantError(err, codes.Unavailable, "TooFewNodes", "1 is eligible; add a node")
	meta.SetStatusCondition(&v.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionPlaced, Status: metav1.ConditionTrue, Reason: "Placed"})
	if err := f.api.Status().Update(t.Context(), &v); err != nil {
		t.Fatal(err)
	}
	r, err := f.CreateVolume(t.Context(), q)
	if err != nil || r.GetVolume().GetVolumeId() != name || r.GetVolume().GetCapacityBytes() != 4*mib || len(r.GetVolume().GetAccessibleTopology()) != 0 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestCreateAgainMustBeTheSame(t *testing.T) {
	for what, c := range map[string]struct {
		have  func(*v1alpha1.Volume)
		size  int64
		parts []string
	}{
		"size":        {nil, 2 << 30, []string{"size"}},
		"replicas":    {func(v *v1alpha1.Volume) { v.Spec.Replicas = 1 }, 1 << 30, []string{"replicas"}},
		"consistency": {func(v *v1alpha1.Volume) { v.Spec.Consistency = "all" }, 1 << 30, []string{"consistency", `"all"`}},
		"selector": {func(v *v1alpha1.Volume) {
			v.Spec.PoolSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, 1 << 30, []string{"poolSelector"}},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t, made(c.have))
			q := createRequest(nil)
			q.CapacityRange = &csi.CapacityRange{RequiredBytes: c.size}
			_, err := f.CreateVolume(t.Context(), q)
			f.wantError(err, codes.AlreadyExists, append(c.parts, name)...)
		})
	}
}

// A claim that is deleted before its volume could be placed leaves no Volume.
func TestVolumeGoesWithItsClaim(t *testing.T) {
	claimParams := map[string]string{"csi.storage.k8s.io/pvc/name": "data", "csi.storage.k8s.io/pvc/namespace": "app"}
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "data"}}
	f := newFixture(t, pvc)
	_, err := f.CreateVolume(t.Context(), createRequest(claimParams))
	f.wantError(err, codes.Unavailable)
	if _, exists := f.volume(); !exists {
		t.Error("the Volume went while its claim is there")
	}
	if err := f.api.Delete(t.Context(), pvc); err != nil {
		t.Fatal(err)
	}
	_, err = f.CreateVolume(t.Context(), createRequest(claimParams))
	f.wantError(err, codes.NotFound, "app/data")
	if _, exists := f.volume(); exists {
		t.Error("the Volume is left behind")
	}
}

func TestDelete(t *testing.T) {
	f := newFixture(t, made(func(v *v1alpha1.Volume) {
		v.Finalizers = []string{"cask.storage/test"}
		v.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "a", ID: "x"}
	}))
	_, err := f.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: name})
	f.wantError(err, codes.FailedPrecondition, "node a")
	v, _ := f.volume()
	v.Spec.Attachment = nil
	if err := f.api.Update(t.Context(), &v); err != nil {
		t.Fatal(err)
	}
	_, err = f.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: name})
	f.wantError(err, codes.Unavailable, "operator")
	v, _ = f.volume()
	meta.SetStatusCondition(&v.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionDeleting, Status: metav1.ConditionTrue, Reason: "ReplicaNodeAway", Message: "replica r1 is on node b, which is not ready",
	})
	if err := f.api.Status().Update(t.Context(), &v); err != nil {
		t.Fatal(err)
	}
	_, err = f.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: name})
	f.wantError(err, codes.Unavailable, "ReplicaNodeAway", "replica r1")
	v, _ = f.volume()
	v.Finalizers = nil
	if err := f.api.Update(t.Context(), &v); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := f.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: name}); err != nil {
			t.Errorf("delete of what is gone: %v", err)
		}
	}
}

func publishRequest(node string) *csi.ControllerPublishVolumeRequest {
	return &csi.ControllerPublishVolumeRequest{VolumeId: name, NodeId: node, VolumeCapability: writer()}
}

func TestPublish(t *testing.T) {
	f := newFixture(t, append(nodes(), made(nil))...)
	_, err := f.ControllerPublishVolume(t.Context(), publishRequest("nowhere"))
	f.wantError(err, codes.NotFound, "node nowhere")
	r, err := f.ControllerPublishVolume(t.Context(), publishRequest("a"))
	if err != nil {
		t.Fatal(err)
	}
	v, _ := f.volume()
	c, err := publishcontext.Parse(r.GetPublishContext())
	if err != nil || c.Address != "10.0.0.1:4420" || c.NQN != "nqn.2026-01.storage.cask:volume:pvc-1" || c.NSID != 1 ||
		v.Spec.Attachment == nil || c.Attachment != v.Spec.Attachment.ID || c.UID != "u1" {
		t.Errorf("%+v, %v, %+v", c, err, v.Spec.Attachment)
	}
	again, err := f.ControllerPublishVolume(t.Context(), publishRequest("a"))
	if err != nil || again.GetPublishContext()["attachment"] != c.Attachment {
		t.Errorf("again: %v, %v", again, err)
	}
	ro := publishRequest("a")
	ro.Readonly = true
	_, err = f.ControllerPublishVolume(t.Context(), ro)
	f.wantError(err, codes.AlreadyExists, "readOnly")
	_, err = f.ControllerPublishVolume(t.Context(), publishRequest("b"))
	f.wantError(err, codes.FailedPrecondition, "attached to node a", "ReadWriteOnce", "node b")
}

// TestPublishOfISCSI: nodes are told what to speak; what initiators outside of
// pods may have open they do not get.
func TestPublishOfISCSI(t *testing.T) {
	set := func(edit func(*v1alpha1.VolumeSpec)) fixture {
		return newFixture(t, append(nodes(), made(func(v *v1alpha1.Volume) {
			v.Spec.Frontend, v.Status.Target.Address = v1alpha1.FrontendISCSI, "10.0.0.9:3260"
			edit(&v.Spec)
		}))...)
	}
	r, err := set(func(*v1alpha1.VolumeSpec) {}).ControllerPublishVolume(t.Context(), publishRequest("a"))
	if err != nil || r.GetPublishContext()["frontend"] != "iscsi" {
		t.Errorf("published %v, %v", r.GetPublishContext(), err)
	}
	for _, edit := range []func(*v1alpha1.VolumeSpec){
		func(s *v1alpha1.VolumeSpec) { s.Initiators = []string{"iqn.2026-01.x:a"} },
		func(s *v1alpha1.VolumeSpec) { s.AuthenticationSecret = "chap" },
	} {
		f := set(edit)
		_, err := f.ControllerPublishVolume(t.Context(), publishRequest("a"))
		f.wantError(err, codes.FailedPrecondition, "initiators outside of pods", "StorageClass")
	}
}

// TestNodesProveThemselves: the parameter is in the Volume, and nodes are told; a
// Volume whose keys its StorageClass would not find is not made.
func TestNodesProveThemselves(t *testing.T) {
	for value, want := range map[string]string{"nodes": "nodes", "none": ""} {
		f := newFixture(t, nodes()...)
		q := createRequest(map[string]string{"authentication": value})
		_, err := f.CreateVolume(t.Context(), q)
		f.wantError(err, codes.Unavailable, "operator")
		v, _ := f.volume()
		if v.Spec.Authentication != want {
			t.Errorf("%s: spec %q", value, v.Spec.Authentication)
		}
		_, err = f.CreateVolume(t.Context(), q)
		f.wantError(err, codes.Unavailable, "operator")
		q.Parameters["authentication"] = map[string]string{"nodes": "none", "none": "nodes"}[value]
		_, err = f.CreateVolume(t.Context(), q)
		f.wantError(err, codes.AlreadyExists, "authentication")
		v.Status.Target.Address = "10.0.0.1:4420"
		if err := f.api.Status().Update(t.Context(), &v); err != nil {
			t.Fatal(err)
		}
		r, err := f.ControllerPublishVolume(t.Context(), publishRequest("a"))
		if err != nil || r.GetPublishContext()["authentication"] != want {
			t.Errorf("%s: published %v, %v", value, r.GetPublishContext(), err)
		}
	}
	f := newFixture(t)
	q := createRequest(map[string]string{"authentication": "nodes"})
	q.Name = "Odd_Name"
	_, err := f.CreateVolume(t.Context(), q)
	f.wantError(err, codes.InvalidArgument, "Odd_Name", "authentication", "name")
}

func TestUnpublish(t *testing.T) {
	f := newFixture(t, append(nodes(), made(nil))...)
	publish := func(node string) string {
		r, err := f.ControllerPublishVolume(t.Context(), publishRequest(node))
		if err != nil {
			t.Fatal(err)
		}
		return r.GetPublishContext()["attachment"]
	}
	unpublish := func(volume, node string) {
		t.Helper()
		if _, err := f.ControllerUnpublishVolume(t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: volume, NodeId: node}); err != nil {
			t.Error(err)
		}
	}
	first := publish("a")
	unpublish(name, "b") // not its to give up
	if v, _ := f.volume(); v.Spec.Attachment == nil {
		t.Fatal("another node's unpublish took the volume away")
	}
	unpublish(name, "a")
	unpublish(name, "a")
	unpublish("pvc-never", "a")
	if v, _ := f.volume(); v.Spec.Attachment != nil {
		t.Errorf("still attached: %+v", v.Spec.Attachment)
	}
	if second := publish("a"); second == first {
		t.Error("a new attachment has the old one's ID")
	}
	unpublish(name, "") // any node
	if v, _ := f.volume(); v.Spec.Attachment != nil {
		t.Error("still attached")
	}
}

func TestPublishWaitsForAnAddress(t *testing.T) {
	f := newFixture(t, append(nodes(), made(func(v *v1alpha1.Volume) { v.Status.Target.Address = "" }))...)
	_, err := f.ControllerPublishVolume(t.Context(), publishRequest("a"))
	f.wantError(err, codes.Unavailable, "address")
}

func TestGetCapacity(t *testing.T) {
	const gib = 1 << 30
	pool := func(name string, labels map[string]string, free ...int64) client.Object {
		p := &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
		for i, n := range free {
			p.Status.Nodes = append(p.Status.Nodes, v1alpha1.PoolNode{
				Name: string(rune('a' + i)), Ready: n >= 0, Capacity: *resource.NewQuantity(max(n, 0)*100/90, resource.BinarySI),
			})
		}
		return p
	}
	f := newFixture(t, pool("big", map[string]string{"disk": "ssd"}, 100*gib, 50*gib, 20*gib), pool("small", nil, 10*gib, 10*gib, -1))
	for what, c := range map[string]struct {
		params   map[string]string
		min, max int64
	}{
		"three replicas":   {nil, 18 * gib, 20 * gib},
		"one":              {map[string]string{"replicas": "1"}, 90 * gib, 100 * gib},
		"more than nodes":  {map[string]string{"replicas": "4"}, 0, 0},
		"by name":          {map[string]string{"replicas": "2", "pool": "small"}, 8 * gib, 10 * gib},
		"a node not ready": {map[string]string{"replicas": "3", "pool": "small"}, 0, 0},
		"by label":         {map[string]string{"replicas": "2", "poolSelector": "disk=ssd"}, 46 * gib, 50 * gib},
		"no pool":          {map[string]string{"poolSelector": "disk=tape"}, 0, 0},
	} {
		r, err := f.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: c.params})
		if err != nil || r.GetAvailableCapacity() < c.min || r.GetAvailableCapacity() > c.max {
			t.Errorf("%s: %d, %v; want %d to %d", what, r.GetAvailableCapacity(), err, c.min, c.max)
		}
	}
}

func TestHealth(t *testing.T) {
	f := newFixture(t, made(func(v *v1alpha1.Volume) {
		for _, c := range []string{v1alpha1.ConditionHealthy, v1alpha1.ConditionPrefix} {
			meta.SetStatusCondition(&v.Status.Conditions, metav1.Condition{Type: c, Status: metav1.ConditionFalse, Reason: "Because", Message: "of this"})
		}
	}))
	r, err := f.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: name})
	if err != nil {
		t.Fatal(err)
	}
	h := r.GetVolumeHealth().GetHealthStatuses()
	if len(h) != 2 || h[0].GetStatus() != csi.VolumeHealthErrorType_DEGRADED || h[1].GetStatus() != csi.VolumeHealthErrorType_DATA_LOSS {
		t.Errorf("%v", h)
	}
}

func TestPagesAreStableWhileVolumesGo(t *testing.T) {
	var all []v1alpha1.Volume
	for _, n := range []string{"e", "b", "d", "a", "c"} {
		all = append(all, v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: n}})
	}
	first, next := cut(all, "", 2)
	if len(first) != 2 || first[1].Name != "b" || next != "after:b" {
		t.Fatalf("%v %q", first, next)
	}
	rest, next := cut([]v1alpha1.Volume{all[2], all[4]}, "b", 0) // b is gone, the others sorted by now
	if len(rest) != 2 || rest[0].Name != "c" || next != "" {
		t.Errorf("%v %q", rest, next)
	}
	if last, next := cut(all, "e", 2); len(last) != 0 || next != "" {
		t.Errorf("%v %q", last, next)
	}
}

// TestModify changes what is named, keeps what is not, and nothing when
// something is wrong.
func TestModify(t *testing.T) {
	f := newFixture(t, made(func(v *v1alpha1.Volume) { v.Spec.MinVoters = ptr.To[int32](2) }))
	modify := func(params map[string]string) error {
		_, err := f.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: name, MutableParameters: params})
		return err
	}
	if err := modify(map[string]string{"consistency": "all", "replicas": "2", "replaceAfter": "10m"}); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []map[string]string{{"compression": "off"}, {"zones": "each"}, {"replicas": "1"}, {"replicas": "9"}} {
		if err := modify(wrong); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
	var v v1alpha1.Volume
	if err := f.api.Get(t.Context(), client.ObjectKey{Name: name}, &v); err != nil {
		t.Fatal(err)
	}
	if s := v.Spec; s.Consistency != "all" || s.Replicas != 2 || *s.MinVoters != 2 || s.ReplaceAfter.Duration != 10*time.Minute || s.Compression != "lz4" {
		t.Errorf("spec %+v", s)
	}
	_, err := f.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: "none"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a volume that is not there: %v", err)
	}
}
