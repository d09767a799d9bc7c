package apitest_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/apitest"
)

// TestAPI holds what the schema itself must refuse, keep and fill in.
func TestAPI(t *testing.T) {
	_, c := apitest.Start(t)
	t.Run("volume defaults", func(t *testing.T) { volumeDefaults(t, c) })
	t.Run("volumes refused", func(t *testing.T) { volumesRefused(t, c) })
	t.Run("volume changes refused", func(t *testing.T) { changesRefused(t, c) })
	t.Run("pools", func(t *testing.T) { pools(t, c) })
	t.Run("released by server-side apply", func(t *testing.T) { releasedByApply(t, c) })
}

func volume(name string, edit ...func(*v1alpha1.Volume)) *v1alpha1.Volume {
	v := &v1alpha1.Volume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.VolumeSpec{Size: resource.MustParse("1Gi")},
	}
	for _, f := range edit {
		f(v)
	}
	return v
}

func volumeDefaults(t *testing.T, c client.Client) {
	v := volume("defaults")
	if err := c.Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	s := v.Spec
	if s.Replicas != 3 || s.Consistency != "quorum" || s.Durability != "flush" || s.Compression != "lz4" || s.RecordSize != "8Ki" || s.Zones != "" || s.MinVoters != nil || s.ReplaceAfter != nil || s.Frontend != "nvme" {
		t.Errorf("defaults are %+v", s)
	}
}

func volumesRefused(t *testing.T, c client.Client) {
	for _, tc := range []struct {
		name, want string
		edit       func(*v1alpha1.Volume)
	}{
		{"size 0", "positive multiple of 1Mi", func(v *v1alpha1.Volume) { v.Spec.Size = resource.MustParse("0") }},
		{"negative size", "positive multiple of 1Mi", func(v *v1alpha1.Volume) { v.Spec.Size = resource.MustParse("-1Gi") }},
		{"odd size", "positive multiple of 1Mi", func(v *v1alpha1.Volume) { v.Spec.Size = resource.MustParse("1000001") }},
		{"fraction", "positive multiple of 1Mi", func(v *v1alpha1.Volume) { v.Spec.Size = resource.MustParse("1500m") }},
		{"8 replicas", "less than or equal to 7", func(v *v1alpha1.Volume) { v.Spec.Replicas = 8 }},
		{"level", "Unsupported value", func(v *v1alpha1.Volume) { v.Spec.Consistency = "most" }},
		{"zones of all", "zones are for consistency quorum", func(v *v1alpha1.Volume) { v.Spec.Consistency, v.Spec.Zones = "all", "each" }},
		{"odd zones", "Unsupported value", func(v *v1alpha1.Volume) { v.Spec.Zones = "every" }},
		{"more voters than replicas", "minVoters must not be more", func(v *v1alpha1.Volume) { v.Spec.MinVoters = ptr.To[int32](4) }},
		{"no voters", "greater than or equal to 1", func(v *v1alpha1.Volume) { v.Spec.MinVoters = ptr.To[int32](0) }},
		{"replaced at once", "at least 1s", func(v *v1alpha1.Volume) { v.Spec.ReplaceAfter = &metav1.Duration{} }},
		{"both pool and selector", "not both", func(v *v1alpha1.Volume) {
			v.Spec.Pool, v.Spec.PoolSelector = "p", &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}},
		{"name with a digit first", "starts with a letter", func(v *v1alpha1.Volume) { v.Name = "1st" }},
		{"name too long", "at most 50", func(v *v1alpha1.Volume) { v.Name = strings.Repeat("x", 51) }},
		{"name with a dot", "starts with a letter", func(v *v1alpha1.Volume) { v.Name = "a.b" }},
		{"record size", "Unsupported value", func(v *v1alpha1.Volume) { v.Spec.RecordSize = "12Ki" }},
		{"frontend", "Unsupported value", func(v *v1alpha1.Volume) { v.Spec.Frontend = "scsi" }},
		{"initiators of nvme", "frontend iscsi", func(v *v1alpha1.Volume) { v.Spec.Initiators = []string{"iqn.2026-01.x:a"} }},
		{"secret of nvme", "frontend iscsi", func(v *v1alpha1.Volume) { v.Spec.AuthenticationSecret = "s" }},
		{"authentication", "Unsupported value", func(v *v1alpha1.Volume) { v.Spec.Authentication = "all" }},
		{"authentication of iscsi", "for frontend nvme", func(v *v1alpha1.Volume) { v.Spec.Frontend, v.Spec.Authentication = "iscsi", "nodes" }},
		{"initiator without a name", "spec.initiators", func(v *v1alpha1.Volume) {
			v.Spec.Frontend, v.Spec.Initiators = "iscsi", []string{"host1"}
		}},
		{"attachment of nobody", "spec.attachment.node", func(v *v1alpha1.Volume) {
			v.Spec.Attachment = &v1alpha1.VolumeAttachment{ID: "x"}
		}},
		{"attachment that a NQN cannot hold", "spec.attachment.id", func(v *v1alpha1.Volume) {
			v.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "n", ID: "a:b"}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			refused(t, c.Create(t.Context(), volume("refused", tc.edit)), tc.want)
		})
	}
}

func changesRefused(t *testing.T, c client.Client) {
	v := volume("fixed")
	if err := c.Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, want string
		edit       func(*v1alpha1.Volume)
	}{
		{"size", "can grow, not shrink", func(v *v1alpha1.Volume) { v.Spec.Size = resource.MustParse("1023Mi") }},
		{"durability", "cannot change yet", func(v *v1alpha1.Volume) { v.Spec.Durability = "always" }},
		{"record size", "cannot change yet", func(v *v1alpha1.Volume) { v.Spec.RecordSize = "16Ki" }},
		{"voters with the replicas", "minVoters must not be more", func(v *v1alpha1.Volume) { v.Spec.Replicas, v.Spec.MinVoters = 1, ptr.To[int32](2) }},
		{"frontend", "cannot change", func(v *v1alpha1.Volume) { v.Spec.Frontend = "iscsi" }},
		{"authentication", "authentication cannot change", func(v *v1alpha1.Volume) { v.Spec.Authentication = "nodes" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			changed := v.DeepCopy()
			tc.edit(changed)
			refused(t, c.Update(t.Context(), changed), tc.want)
		})
	}
	v.Spec.Size = resource.MustParse("1024Mi") // the same number in other words
	v.Spec.Authentication = "none"             // as when absent
	if err := c.Update(t.Context(), v); err != nil {
		t.Errorf("what may stay: %v", err)
	}
	v.Spec.Size = resource.MustParse("2Gi")
	v.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "n1", ID: "1"}
	v.Spec.Replicas, v.Spec.Zones, v.Spec.MinVoters, v.Spec.ReplaceAfter = 5, "each", ptr.To[int32](2), &metav1.Duration{Duration: time.Minute}
	if err := c.Update(t.Context(), v); err != nil {
		t.Errorf("what may change: %v", err)
	}
}

func pools(t *testing.T, c client.Client) {
	pool := func(name, dir string) *v1alpha1.StoragePool {
		return &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.StoragePoolSpec{Directory: dir}}
	}
	refused(t, c.Create(t.Context(), pool("p", "var/lib/cask")), "spec.directory")
	refused(t, c.Create(t.Context(), pool("p", "/")), "spec.directory")
	refused(t, c.Create(t.Context(), pool("p", "/a/../b")), "spec.directory")
	refused(t, c.Create(t.Context(), pool("p.q", "/var/lib/cask")), "starts with a letter")
	p := pool("p", "/var/lib/cask")
	if err := c.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if p.Spec.Engine != "File" || *p.Spec.ReservePercent != 10 || *p.Spec.OvercommitPercent != 100 {
		t.Errorf("defaults are %+v", p.Spec)
	}
	p.Spec.Directory = "/elsewhere"
	refused(t, c.Update(t.Context(), p), "cannot change")
}

// releasedByApply is what an IO container does to its own entry, without
// knowing the others.
func releasedByApply(t *testing.T, c client.Client) {
	v := volume("gone")
	if err := c.Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	v.Status.Replicas = []v1alpha1.VolumeReplica{{ID: "r0", Node: "n0", Pool: "p"}, {ID: "r1", Node: "n1", Pool: "p"}}
	if err := c.Status().Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"apiVersion":"cask.storage/v1alpha1","kind":"Volume","metadata":{"name":"gone"},"status":{"replicas":[{"id":"r1","released":true}]}}`)
	err := c.Status().Patch(t.Context(), v, client.RawPatch(types.ApplyPatchType, body), client.FieldOwner("ioc-n1"))
	if err != nil {
		t.Fatal(err)
	}
	r := v.Status.Replicas
	if len(r) != 2 || r[0].Released || !r[1].Released || r[1].Node != "n1" {
		t.Errorf("replicas are %+v", r)
	}
	nobody := []byte(`{"apiVersion":"cask.storage/v1alpha1","kind":"Volume","metadata":{"name":"never"},"status":{"replicas":[{"id":"r1","node":"n","pool":"p","released":true}]}}`)
	err = c.Status().Patch(t.Context(), volume("never"), client.RawPatch(types.ApplyPatchType, nobody), client.FieldOwner("ioc-n1"))
	if client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("applying to the status of a Volume that is gone: %v, want not found", err)
	}
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
}
