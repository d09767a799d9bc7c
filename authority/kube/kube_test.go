package kube

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// acquire takes the next epoch for v.
func acquire(t *testing.T, v *Volume) volume.Record {
	t.Helper()
	old, err := v.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := old
	next.Epoch++
	next.Holder = v.o.Pod
	if err := v.CompareAndSwap(t.Context(), old, next); err != nil {
		t.Fatal(err)
	}
	return next
}

func TestAcquire(t *testing.T) {
	f := newFake()
	f.attach("n1", "a1")
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	if r.Epoch != 1 || len(r.Voters) != 3 {
		t.Errorf("record %+v", r)
	}
	want := v1alpha1.VolumeTarget{Pod: "pod-1", Node: "n0", Attachment: "a1"}
	if s := f.status(); s.Target != want || s.Holder != "pod-1" || s.Epoch != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestCompareAndSwap(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	old := acquire(t, v)
	stale := old
	stale.Epoch--
	if err := v.CompareAndSwap(t.Context(), stale, old); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("swap of an old record: %v", err)
	}
	next := old
	next.Initialized, next.Voters, next.Lost = true, []quorum.ReplicaID{"r0", "r2"}, old.Epoch
	var once sync.Once
	f.before = func() { // somebody writes another field of the status meanwhile
		once.Do(func() { f.edit(func(o *v1alpha1.Volume) { o.Status.State = "Pending" }) })
	}
	if err := v.CompareAndSwap(t.Context(), old, next); err != nil {
		t.Fatalf("another's write of another field is no conflict: %v", err)
	}
	if got, _ := v.Load(t.Context()); !got.Equal(next) {
		t.Errorf("record %+v, want %+v", got, next)
	}
	if f.status().State != "Pending" {
		t.Error("the other's field was overwritten")
	}
}

// TestRace has many targets acquire: each epoch is acquired once.
func TestRace(t *testing.T) {
	f := newFake()
	var acquired atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			v := open(f, "pod", "n0")
			for range 20 {
				old, err := v.Load(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				next := old
				next.Epoch++
				switch err := v.CompareAndSwap(t.Context(), old, next); {
				case err == nil:
					acquired.Add(1)
				case !errors.Is(err, volume.ErrConflict):
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if s := f.status(); s.Epoch != acquired.Load() {
		t.Errorf("epoch %d after %d acquisitions", s.Epoch, acquired.Load())
	}
}

func TestAdmit(t *testing.T) {
	f := newFake()
	f.attach("n1", "a1")
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	for _, tc := range []struct{ nqn, want string }{
		{"nqn.2026-01.storage.cask:host:n1:a1", ""},
		{"nqn.2026-01.storage.cask:host:n1:a0", "older one"},
		{"nqn.2026-01.storage.cask:host:n2:a1", "attached to node n1"},
		{"nqn.2014-08.org.nvmexpress:uuid:1", "not of the form"},
		{"", "not of the form"},
		{"nqn.2026-01.storage.cask:host:n1", "not of the form"},
		{"nqn.2026-01.storage.cask:host:n1:a1:x", "not of the form"},
		{"nqn.2026-01.storage.cask:host:" + strings.Repeat("n", 300) + ":a", "not of the form"},
	} {
		err := v.Admit(t.Context(), tc.nqn)
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, ErrNotAdmitted) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("Admit(%q): %v, want %q", tc.nqn, err, tc.want)
		}
	}
}

// TestAdmitInitiators: with frontend iscsi it is the list of names that counts,
// and a change of it has hosts asked about again.
func TestAdmitInitiators(t *testing.T) {
	f := newFake()
	f.edit(func(v *v1alpha1.Volume) {
		v.Spec.Frontend, v.Spec.Initiators = v1alpha1.FrontendISCSI, []string{"iqn.2026-01.x:a"}
	})
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	for _, name := range []string{"iqn.2026-01.x:a", "IQN.2026-01.x:A"} {
		if err := v.Admit(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"iqn.2026-01.x:b", "", "nqn.2026-01.storage.cask:host:n1:a1", "iqn.2026-01.storage.cask:host:n1:a1"} {
		if err := v.Admit(t.Context(), name); !errors.Is(err, ErrNotAdmitted) {
			t.Errorf("%q: %v", name, err)
		}
	}
	changed := v.Changed()
	f.edit(func(v *v1alpha1.Volume) { v.Spec.Initiators = nil })
	if err := v.Admit(t.Context(), "iqn.2026-01.x:a"); !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("taken off the list: %v", err)
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told that the list changed")
	}
}

// TestAdmitNodeByISCSI: with frontend iscsi a node goes by the name of its
// attachment as it does with NVMe, and shares the volume with no initiator.
func TestAdmitNodeByISCSI(t *testing.T) {
	f := newFake()
	f.edit(func(v *v1alpha1.Volume) {
		v.Spec.Frontend, v.Spec.Initiators = v1alpha1.FrontendISCSI, []string{"iqn.2026-01.x:a"}
	})
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	f.attach("n1", "a1")
	if err := v.Admit(t.Context(), "iqn.2026-01.storage.cask:host:n1:a1"); err != nil {
		t.Fatal(err)
	}
	if got := f.status().Target.Attachment; got != "a1" {
		t.Errorf("published %q", got)
	}
	for _, name := range []string{"iqn.2026-01.storage.cask:host:n1:a0", "iqn.2026-01.storage.cask:host:n2:a1", "iqn.2026-01.x:a"} {
		if err := v.Admit(t.Context(), name); !errors.Is(err, ErrNotAdmitted) {
			t.Errorf("%q beside the attachment: %v", name, err)
		}
	}
}

// TestAdmitPublishes: before the first host of an attachment is in, the status
// says so, so that the operator never thinks that nobody is.
func TestAdmitPublishes(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	f.attach("n1", "a1")
	if err := v.Admit(t.Context(), HostNQN(v1alpha1.VolumeAttachment{Node: "n1", ID: "a1"})); err != nil {
		t.Fatal(err)
	}
	if got := f.status().Target.Attachment; got != "a1" {
		t.Errorf("published %q", got)
	}
}

// TestAdmitWithoutServer: hosts of a published attachment may come back while
// the API server is away; new ones may not.
func TestAdmitWithoutServer(t *testing.T) {
	f := newFake()
	f.attach("n1", "a1")
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	f.setDown(true)
	if err := v.Admit(t.Context(), HostNQNPrefix+"n1:a1"); err != nil {
		t.Errorf("known host: %v", err)
	}
	f.setDown(false)
	f.attach("n2", "a2")
	if _, err := v.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.setDown(true)
	if err := v.Admit(t.Context(), HostNQNPrefix+"n2:a2"); err == nil || errors.Is(err, ErrNotAdmitted) {
		t.Errorf("a new attachment that cannot be published: %v", err)
	}
	if err := open(f, "pod-2", "n0").Admit(t.Context(), HostNQNPrefix+"n2:a2"); err == nil || errors.Is(err, ErrNotAdmitted) {
		t.Errorf("a host of a Volume that was never read: %v", err)
	}
	if err := v.Admit(t.Context(), HostNQNPrefix+"n1:a1"); !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("old host: %v", err)
	}
}

func TestSettle(t *testing.T) {
	f := newFake()
	f.attach("n1", "a1")
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	following(t, v)
	waitFor(t, v, "a1")
	f.attach("", "")
	waitFor(t, v, "")

	failed := errors.New("still busy")
	if err := v.Settle(t.Context(), func(context.Context) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("Settle: %v", err)
	}
	if got := f.status().Target.Attachment; got != "a1" {
		t.Errorf("published %q though the old hosts may be connected", got)
	}
	during := ""
	err := v.Settle(t.Context(), func(ctx context.Context) error {
		during = f.status().Target.Attachment
		if err := v.Admit(ctx, HostNQNPrefix+"n1:a1"); !errors.Is(err, ErrNotAdmitted) {
			t.Errorf("Admit of the old host: %v", err)
		}
		return nil
	})
	if err != nil || during != "a1" {
		t.Errorf("Settle: %v, published %q before the recheck ended", err, during)
	}
	if got := f.status().Target.Attachment; got != "" {
		t.Errorf("published %q afterwards", got)
	}
	updates := f.updates
	if err := v.Settle(t.Context(), func(context.Context) error { return nil }); err != nil || f.updates != updates {
		t.Errorf("an idle Settle: %v, %d writes", err, f.updates-updates)
	}
}

// TestSettleLate: a change that is taken back while hosts are rechecked, and a
// host of a new attachment that comes in meanwhile, must not be published away.
func TestSettleLate(t *testing.T) {
	f := newFake()
	f.attach("n1", "a1")
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	f.attach("", "")
	if _, err := v.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := v.Settle(t.Context(), func(ctx context.Context) error {
		f.attach("n2", "a2")
		return v.Admit(ctx, HostNQNPrefix+"n2:a2")
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.status().Target.Attachment; got != "a2" {
		t.Errorf("published %q while a host of a2 is connected", got)
	}
}

// TestSuperseded: a target that lost its epoch writes nothing.
func TestSuperseded(t *testing.T) {
	f := newFake()
	f.attach("n1", "a1")
	old := open(f, "pod-1", "n1")
	mine := acquire(t, old)
	acquire(t, open(f, "pod-2", "n2"))
	f.attach("", "")
	before := f.status()
	if _, err := old.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := old.Settle(t.Context(), func(context.Context) error { return nil }); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Settle: %v", err)
	}
	f.attach("n1", "a2")
	if err := old.Admit(t.Context(), HostNQNPrefix+"n1:a2"); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Admit: %v", err)
	}
	if err := old.Report(t.Context(), target.Status{Epoch: uint64(mine.Epoch), Serving: true}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("Report: %v", err)
	}
	if err := old.CompareAndSwap(t.Context(), mine, mine); !errors.Is(err, volume.ErrConflict) {
		t.Errorf("CompareAndSwap: %v", err)
	}
	if after := f.status(); after.Target != before.Target || after.Epoch != 2 {
		t.Errorf("status %+v, was %+v", after, before)
	}
}

func TestRunFollows(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	following(t, v)
	f.attach("n1", "a1")
	waitFor(t, v, "a1")
	f.closeWatches()
	f.attach("n2", "a2")
	waitFor(t, v, "a2")
	f.remove()
	deadline := time.Now().Add(10 * time.Second)
	for !errors.Is(v.Admit(t.Context(), HostNQNPrefix+"n2:a2"), ErrGone) {
		if time.Now().After(deadline) {
			t.Fatal("a deleted Volume still admits")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestMadeAnew(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	acquire(t, v)
	f.setUID("uid-2")
	if _, err := v.Load(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("Load of another Volume of the same name: %v", err)
	}
}

// waitFor waits until v has seen an attachment.
func waitFor(t *testing.T, v *Volume, id string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		changed := v.Changed()
		v.mu.Lock()
		seen := v.latest != nil && attachmentID(v.latest) == id
		v.mu.Unlock()
		if seen {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("attachment %q not seen", id)
		}
	}
}

func TestReport(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	s := target.Status{Epoch: uint64(r.Epoch), Serving: true, Reason: "Serving", Replicas: []target.ReplicaStatus{
		{ID: "r0", State: v1alpha1.ReplicaInSync}, {ID: "r1", State: v1alpha1.ReplicaInSync},
		{ID: "r2", State: v1alpha1.ReplicaRebuilding, Reason: "Returned", Message: "copying", Done: 45, Total: 100},
	}}
	report := func() { t.Helper(); must(t, v.Report(t.Context(), s)) }
	report()
	st := f.status()
	if st.State != v1alpha1.VolumeDegraded || st.InSync != "2/3" || st.Replicas[2].Message != "copying 40% done" || st.Replicas[2].Node != "n2" {
		t.Errorf("status %+v", st)
	}
	if c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionHealthy); c == nil || c.Reason != "ReplicaRebuilding" || !strings.Contains(c.Message, "r2 on n2") {
		t.Errorf("condition %+v", c)
	}
	updates, events := f.updates, len(f.events)
	s.Replicas[2].Done = 46
	report()
	if f.updates != updates || len(f.events) != events {
		t.Error("wrote though nothing that people see has changed")
	}
	s.Replicas[2] = target.ReplicaStatus{ID: "r2", State: v1alpha1.ReplicaInSync}
	report()
	if st = f.status(); st.State != v1alpha1.VolumeHealthy || len(f.events) != events+1 {
		t.Errorf("state %s, %d events", st.State, len(f.events)-events)
	}
	s.Serving, s.Reason, s.Message = false, "no quorum!", "1 of 3"
	report()
	st = f.status()
	if c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionServing); st.State != v1alpha1.VolumeSuspended || c.Reason != "NotServing" {
		t.Errorf("state %s, condition %+v", st.State, c)
	}
}

// TestUncleanStays: that writes may be missing is not forgotten by the next
// target.
func TestUncleanStays(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	r := acquire(t, v)
	must(t, v.Report(t.Context(), target.Status{Epoch: uint64(r.Epoch), Unclean: "r1 lost power"}))
	v = open(f, "pod-2", "n1")
	r = acquire(t, v)
	must(t, v.Report(t.Context(), target.Status{Epoch: uint64(r.Epoch), Serving: true}))
	if !meta.IsStatusConditionFalse(f.status().Conditions, v1alpha1.ConditionPrefix) {
		t.Error("forgotten")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzParseHostNQN(f *testing.F) {
	f.Add(HostNQNPrefix + "n1:a1")
	f.Fuzz(func(t *testing.T, nqn string) {
		a, err := ParseHostNQN(nqn)
		if err == nil && HostNQN(a) != nqn {
			t.Errorf("%q parsed to %+v", nqn, a)
		}
	})
}

// TestKeep: reservations are written under the holder's name, in one update
// with the check of it, whoever else writes the status at that moment.
func TestKeep(t *testing.T) {
	f := newFake()
	v := open(f, "pod-1", "n0")
	if err := v.Keep(t.Context(), "pod-1", []byte("early")); !errors.Is(err, volume.ErrSuperseded) {
		t.Errorf("before the epoch is ours: %v", err)
	}
	acquire(t, v)
	f.before = func() {
		f.before = nil
		f.edit(func(v *v1alpha1.Volume) { v.Status.State = "Elsewhere" })
	}
	if err := v.Keep(t.Context(), "pod-1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	if s := f.status(); s.Reservations != "one" || s.State != "Elsewhere" {
		t.Errorf("status %+v", s)
	}
	other := open(f, "pod-2", "n1")
	f.before = func() { // takes over between the read and the write
		f.before = nil
		acquire(t, other)
	}
	if err := v.Keep(t.Context(), "pod-1", []byte("stale")); !errors.Is(err, volume.ErrSuperseded) {
		t.Errorf("superseded meanwhile: %v", err)
	}
	if b, err := other.Kept(t.Context()); err != nil || string(b) != "one" {
		t.Errorf("kept %q, %v", b, err)
	}
	if err := other.Keep(t.Context(), "pod-2", make([]byte, target.MaxKept+1)); !errors.Is(err, target.ErrTooLarge) {
		t.Errorf("more than the bound: %v", err)
	}
	if err := other.Keep(t.Context(), "pod-2", nil); err != nil || f.status().Reservations != "" {
		t.Errorf("nothing to keep: %v, %+v", err, f.status())
	}
}
