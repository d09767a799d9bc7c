package poolnode

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/ioc"
)

var base = ioc.FileConfig{Dir: "/pool", Pool: "p", Node: "n1"}

func poolWith(id string, annotation string) *v1alpha1.StoragePool {
	p := &v1alpha1.StoragePool{ObjectMeta: metav1.ObjectMeta{Name: "p", Annotations: map[string]string{AnnotationReplaceDisk: annotation}}}
	p.Status.Nodes = []v1alpha1.PoolNode{{Name: "n2", PoolID: "other"}}
	if id != "" {
		p.Status.Nodes = append(p.Status.Nodes, v1alpha1.PoolNode{Name: "n1", PoolID: id})
	}
	return p
}

func volumeOn(node string) v1alpha1.Volume {
	v := v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	v.Status.Replicas = []v1alpha1.VolumeReplica{{ID: "r0", Node: node, Pool: "p"}, {ID: "r1", Node: "n9", Pool: "p"}}
	return v
}

func TestTerms(t *testing.T) {
	for _, c := range []struct {
		name     string
		pool     *v1alpha1.StoragePool
		volumes  []v1alpha1.Volume
		expectID string
		firstUse bool
	}{
		{"new node", poolWith("", ""), nil, "", true},
		{"known node", poolWith("id", ""), nil, "id", false},
		{"no ID but replicas", poolWith("", ""), []v1alpha1.Volume{volumeOn("n1")}, "", false},
		{"no ID, replicas elsewhere", poolWith("", ""), []v1alpha1.Volume{volumeOn("n2")}, "", true},
		{"disk replaced", poolWith("id", "x, id"), []v1alpha1.Volume{volumeOn("n1")}, "", true},
		{"another disk replaced", poolWith("id", "x,y,"), nil, "id", false},
		{"no ID, node accepted", poolWith("", "n1"), []v1alpha1.Volume{volumeOn("n1")}, "", true},
		{"a node's name does not accept a recorded disk", poolWith("id", "n1"), nil, "id", false},
	} {
		got := terms(base, c.pool, c.volumes)
		if got.ExpectID != c.expectID || got.FirstUse != c.firstUse {
			t.Errorf("%s: %+v", c.name, got)
		}
		if got.Limits != ioc.DefaultLimits {
			t.Errorf("%s: limits %+v", c.name, got.Limits)
		}
	}
	p := poolWith("", "")
	reserve, over := int32(0), int32(300)
	p.Spec.ReservePercent, p.Spec.OvercommitPercent = &reserve, &over
	if got := limits(p); got != (ioc.Limits{ReservePercent: 0, OvercommitPercent: 300}) {
		t.Errorf("limits %+v", got)
	}
}

func TestDescribe(t *testing.T) {
	cfg := base
	cfg.Limits = ioc.DefaultLimits
	ok := ioc.Status{PoolID: "id", Capacity: 1000, Free: 500, Promised: 300, Extents: 1}
	low := ok
	low.Free = 10
	for _, c := range []struct {
		name   string
		seen   observed
		ready  bool
		reason string
		say    string
	}{
		{"ready", observed{status: ok, extents: []ioc.Extent{{Name: "v-r0"}}}, true, ReasonReady, ""},
		{"faulty", observed{status: ok, extents: []ioc.Extent{{Name: "v-r0", Fault: ioc.CodeTruncated}}}, true, ReasonFaulty, "v-r0 (extent is shorter"},
		{"orphan", observed{status: ok, extents: []ioc.Extent{{Name: "v-2-r0"}}}, true, ReasonOrphans, "v-2-r0"},
		{"low", observed{status: low}, true, ReasonLowSpace, "10%"},
		{"foreign", observed{problem: ioc.ErrForeign}, false, ReasonDirectory, "does not belong"},
		{"busy", observed{problem: ioc.ErrBusy}, false, ReasonBusy, ""},
		{"newer", observed{problem: ioc.ErrTooNew}, false, ReasonTooNew, ""},
		{"plain", observed{problem: errors.New("boom")}, false, ReasonIO, "boom"},
	} {
		n := describe(cfg, "id", c.seen, []v1alpha1.Volume{volumeOn("n1")})
		if n.Ready != c.ready || n.Reason != c.reason || !strings.Contains(n.Message, c.say) || n.PoolID != "id" || n.Name != "n1" {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

func TestWorthReporting(t *testing.T) {
	now := v1alpha1.PoolNode{Name: "n1", Ready: true, PoolID: "id", Capacity: bytes(1000), Free: bytes(500)}
	for name, c := range map[string]struct {
		edit func(*v1alpha1.PoolNode)
		want bool
	}{
		"nothing":         {func(*v1alpha1.PoolNode) {}, false},
		"free, a little":  {func(n *v1alpha1.PoolNode) { n.Free = bytes(505) }, false},
		"free, much":      {func(n *v1alpha1.PoolNode) { n.Free = bytes(400) }, true},
		"available":       {func(n *v1alpha1.PoolNode) { n.Available = bytes(100) }, true},
		"promised":        {func(n *v1alpha1.PoolNode) { n.Promised = bytes(1) }, true},
		"not ready":       {func(n *v1alpha1.PoolNode) { n.Ready = false }, true},
		"entry was taken": {func(n *v1alpha1.PoolNode) { *n = v1alpha1.PoolNode{} }, true},
	} {
		old := now
		c.edit(&old)
		if got := worthReporting(old, now); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	broken := v1alpha1.PoolNode{Name: "n1", PoolID: "id", Reason: ReasonIO}
	if worthReporting(broken, broken) {
		t.Error("an unchanged failure is reported again")
	}
}

func TestToRelease(t *testing.T) {
	deleted := metav1.NewTime(time.Unix(1, 0))
	make := func(edit func(*v1alpha1.Volume)) *v1alpha1.Volume {
		v := volumeOn("n1")
		v.DeletionTimestamp = &deleted
		v.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionDeleting, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReleasingExtents}}
		edit(&v)
		return &v
	}
	for _, c := range []struct {
		name string
		edit func(*v1alpha1.Volume)
		want string
	}{
		{"released by the operator", func(*v1alpha1.Volume) {}, "r0/"},
		{"not deleted", func(v *v1alpha1.Volume) { v.DeletionTimestamp = nil }, "/"},
		{"pods may run", func(v *v1alpha1.Volume) { v.Status.Conditions[0].Reason = "StoppingReplicas" }, "/"},
		{"condition false", func(v *v1alpha1.Volume) { v.Status.Conditions[0].Status = metav1.ConditionFalse }, "/"},
		{"no condition", func(v *v1alpha1.Volume) { v.Status.Conditions = nil }, "/"},
		{"another node", func(v *v1alpha1.Volume) { v.Status.Replicas[0].Node = "n2" }, "/"},
		{"another pool", func(v *v1alpha1.Volume) { v.Status.Replicas[0].Pool = "q" }, "/"},
		{"done", func(v *v1alpha1.Volume) { v.Status.Replicas[0].Released = true }, "/r0"},
		{"one of two done", func(v *v1alpha1.Volume) {
			v.Status.Replicas[0].Released = true
			v.Status.Replicas[1].Node = "n1"
		}, "r1/r0"},
	} {
		now, before := toRelease(make(c.edit), base)
		if got := strings.Join(now, ",") + "/" + strings.Join(before, ","); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
