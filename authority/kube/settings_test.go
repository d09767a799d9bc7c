package kube

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// filled is a record with something in every field, also in those that are
// added later.
func filled(t *testing.T, voters ...quorum.ReplicaID) volume.Record {
	t.Helper()
	var r volume.Record
	for _, f := range reflect.ValueOf(&r).Elem().Fields() {
		switch f.Kind() {
		case reflect.Uint64, reflect.Uint32:
			f.SetUint(7)
		case reflect.Int64, reflect.Int, reflect.Int32:
			f.SetInt(7)
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf(voters))
		case reflect.Map:
			f.Set(reflect.ValueOf(map[quorum.ReplicaID]string{voters[0]: "z"}))
		default:
			t.Fatalf("how to fill a %v?", f.Type())
		}
	}
	return r
}

// TestRecordIsKeptWhole: what the status forgot, a recovery would be wrong about.
func TestRecordIsKeptWhole(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	old, err := v.Load(t.Context())
	must(t, err)
	want := filled(t, "r0", "r2")
	must(t, v.CompareAndSwap(t.Context(), old, want))
	got, err := v.Load(t.Context())
	must(t, err)
	if !reflect.DeepEqual(got, want) || !got.Equal(want) {
		t.Errorf("kept %+v\nof   %+v", got, want)
	}
	for i, field := range reflect.VisibleFields(reflect.TypeOf(want)) {
		other := want
		reflect.ValueOf(&other).Elem().Field(i).SetZero()
		if other.Equal(want) {
			t.Errorf("a record with another %s is taken for the same", field.Name)
		}
		if err := v.CompareAndSwap(t.Context(), other, want); !errors.Is(err, volume.ErrConflict) {
			t.Errorf("swapped although %s was another: %v", field.Name, err)
		}
	}
}

// TestEditedByHand: a voter that nobody knows the place of.
func TestEditedByHand(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	f.edit(func(o *v1alpha1.Volume) { o.Status.Voters = append(o.Status.Voters, "r9") })
	if _, err := v.Load(t.Context()); !errors.Is(err, volume.ErrRecord) || !strings.Contains(err.Error(), "r9") {
		t.Errorf("loaded: %v", err)
	}
	next := r
	next.Initialized = true
	if err := v.CompareAndSwap(t.Context(), r, next); !errors.Is(err, volume.ErrRecord) {
		t.Errorf("swapped: %v", err)
	}
}

// TestRefusalIsTold: by a target that holds nothing, which writes nothing else.
func TestRefusalIsTold(t *testing.T) {
	f := newFake()
	r := acquire(t, open(f, "pod-1", "n0"))
	before := f.status()
	v := open(f, "pod-2", "n2")
	must(t, v.Report(t.Context(), target.Status{Epoch: uint64(r.Epoch), Reason: target.ReasonRecordRefused, Message: "replica r1 has promised epoch 9"}))
	after := f.status()
	c := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionServing)
	if c == nil || c.Reason != "RecordRefused" || !strings.Contains(c.Message, "epoch 9") || len(f.events) != 1 {
		t.Errorf("condition %+v, %d events", c, len(f.events))
	}
	if after.Target != before.Target || after.Holder != before.Holder {
		t.Errorf("target %+v, was %+v", after.Target, before.Target)
	}
}

// TestLeavingGetsNoVote: not even from a target that has not heard of it yet.
func TestLeavingGetsNoVote(t *testing.T) {
	f := newFake()
	f.edit(func(o *v1alpha1.Volume) { o.Status.Voters = o.Status.Voters[:2] })
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	next := r
	next.Voters = append(slices.Clone(r.Voters), "r2")
	f.before = func() { // between the read and the write
		f.before = nil
		f.edit(func(o *v1alpha1.Volume) { o.Status.Replicas[2].Leaving = "Surplus" })
	}
	if err := v.CompareAndSwap(t.Context(), r, next); !errors.Is(err, volume.ErrDenied) || !strings.Contains(err.Error(), "r2") {
		t.Errorf("a vote for a replica that leaves: %v", err)
	}
	if got := f.status().Voters; len(got) != 2 {
		t.Errorf("voters %v", got)
	}
	f.edit(func(o *v1alpha1.Volume) { o.Status.Replicas[1].Leaving = "Surplus" })
	kept := r
	kept.Initialized = true
	must(t, v.CompareAndSwap(t.Context(), r, kept)) // one that votes still may, until its vote is taken
}

func TestSettings(t *testing.T) {
	f := newFake()
	f.edit(func(o *v1alpha1.Volume) {
		o.Spec.Consistency, o.Spec.Zones = "quorum", "each"
		o.Status.Target = v1alpha1.VolumeTarget{Node: "n2", Zone: "zb"}
		for i := range o.Status.Replicas {
			r := &o.Status.Replicas[i]
			r.Zone, r.Address = []string{"za", "zb", "zb"}[i], "10.0.0."+r.ID
		}
	})
	v := open(f, "pod-1", "n2")
	following(t, v)
	s, err := v.First(t.Context())
	must(t, err)
	want := volume.Layout{Level: quorum.Each, Replicas: []quorum.ReplicaID{"r2", "r1", "r0"}, Zone: "zb",
		Zones: map[quorum.ReplicaID]string{"r0": "za", "r1": "zb", "r2": "zb"}}
	if !s.Layout.Equal(want) || len(s.Addresses) != 3 {
		t.Errorf("settings %+v, want %+v", s, want)
	}
	_, changed, err := v.Settings()
	must(t, err)
	f.edit(func(o *v1alpha1.Volume) { o.Status.State = "Healthy" }) // nothing that matters
	f.edit(func(o *v1alpha1.Volume) {
		o.Spec.Zones, o.Spec.Consistency = "", "all"
		o.Status.Replicas[2].Leaving = "Surplus"
	})
	<-changed
	if s, _, err = v.Settings(); err != nil || s.Layout.Level != quorum.All || len(s.Layout.Replicas) != 2 || len(s.Addresses) != 3 {
		t.Errorf("settings %+v, %v", s, err)
	}
	f.edit(func(o *v1alpha1.Volume) { o.Spec.Consistency = "most" })
	if _, err := settingsOf(f.obj, "n2"); err == nil {
		t.Error("a level that there is not")
	}
}

// TestSettled tells what is missing to be as the spec says.
func TestSettled(t *testing.T) {
	for name, x := range map[string]struct {
		edit   func(*v1alpha1.Volume)
		status target.Status
		reason string
		words  []string
	}{
		"so it is": {func(*v1alpha1.Volume) {}, target.Status{Settled: true}, "AsSpecified", nil},
		"changing": {func(*v1alpha1.Volume) {}, target.Status{Change: "replica r2 begins to vote"}, "Changing", []string{"r2 begins"}},
		"without a vote": {func(o *v1alpha1.Volume) {
			o.Status.Voters = o.Status.Voters[:2]
			o.Status.Replicas[2].State = v1alpha1.ReplicaRebuilding
		}, target.Status{}, "ReplicaDoesNotVote", []string{"r2 on n2", "Rebuilding"}},
		"no zone":   {func(o *v1alpha1.Volume) { o.Spec.Zones = "each" }, target.Status{}, "ZoneUnknown", []string{"n0", "topology.kubernetes.io/zone"}},
		"leaving":   {func(o *v1alpha1.Volume) { o.Status.Replicas[0].Leaving = "Surplus" }, target.Status{}, "ReplicaLeaves", []string{"r0 on n0", "minVoters"}},
		"level":     {func(o *v1alpha1.Volume) { o.Status.Voting = "2/3" }, target.Status{Level: "quorum"}, "LevelPending", []string{"quorum", "2/3"}},
		"bad level": {func(o *v1alpha1.Volume) { o.Spec.Consistency = "most" }, target.Status{}, "SettingsRefused", []string{"most"}},
	} {
		o := newFake().obj
		o.Spec.Consistency = "quorum"
		x.edit(o)
		c := settled(o, x.status)
		if c.Reason != x.reason || !contains(c.Message, x.words) {
			t.Errorf("%s: %+v, want %s with %q", name, c, x.reason, x.words)
		}
	}
}

func contains(s string, words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(s, w) })
}
