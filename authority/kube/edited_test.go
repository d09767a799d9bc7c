package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// serving is a target that has an epoch and has written some more.
func serving(t *testing.T, f *fake, pod string) (*Volume, volume.Record) {
	t.Helper()
	v := open(f, pod, "n0")
	old := acquire(t, v)
	next := old
	next.Initialized, next.Level = true, quorum.Local
	next.Zone, next.Zones = "a", map[quorum.ReplicaID]string{"r0": "a", "r1": "a", "r2": "b"}
	must(t, v.CompareAndSwap(t.Context(), old, next))
	return v, next
}

// recorded waits until the condition says these words.
func recorded(t *testing.T, f *fake, status metav1.ConditionStatus, words string) metav1.Condition {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if c := meta.FindStatusCondition(f.status().Conditions, v1alpha1.ConditionRecorded); c != nil && c.Status == status && strings.Contains(c.Message, words) {
			return *c
		}
	}
	t.Fatalf("no such condition: %+v", f.status())
	return metav1.Condition{}
}

// alarms counts the Events that say so.
func (f *fake) alarms() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.events {
		if e.Reason == "EditedByHand" {
			n++
		}
	}
	return n
}

// lose has the next update fail, of which that is lost.
func (f *fake) lose(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = what
}

// patched does what a message says is to be done.
func (f *fake) patched(t *testing.T, message string) {
	t.Helper()
	_, patch, found := strings.Cut(message, "kubectl patch volume pvc-1 --subresource=status --type=merge -p '")
	if !found || !strings.HasSuffix(patch, "'") {
		t.Fatalf("no command in %q", message)
	}
	f.edit(func(v *v1alpha1.Volume) {
		zones := v.Status.VoterZones
		v.Status.VoterZones = nil
		must(t, json.Unmarshal([]byte(strings.TrimSuffix(patch, "'")), v)) // as a merge patch, but for maps
		if strings.Contains(patch, `"refused":null`) {
			v.Status.Refused = ""
		}
		if !strings.Contains(patch, "voterZones") {
			v.Status.VoterZones = zones
		}
	})
}

// TestEditedUnderATarget: each field of the record that is edited under a target is told
// at once by its name, keeps every later target from the record, and is right again
// after what the message says was done.
func TestEditedUnderATarget(t *testing.T) {
	for name, edit := range map[string]func(*v1alpha1.VolumeStatus){
		"epoch":       func(s *v1alpha1.VolumeStatus) { s.Epoch = 0 },
		"holder":      func(s *v1alpha1.VolumeStatus) { s.Holder = "somebody" },
		"initialized": func(s *v1alpha1.VolumeStatus) { s.Initialized = false },
		"lostEpoch":   func(s *v1alpha1.VolumeStatus) { s.LostEpoch = 1 },
		"voters":      func(s *v1alpha1.VolumeStatus) { s.Voters = []string{"r0"} },
		"level":       func(s *v1alpha1.VolumeStatus) { s.Level = "all" },
		"voterZones":  func(s *v1alpha1.VolumeStatus) { s.VoterZones["r2"] = "a" },
		"localZone":   func(s *v1alpha1.VolumeStatus) { s.LocalZone = "b" },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			v, wrote := serving(t, f, "pod-1")
			following(t, v)
			f.edit(func(v *v1alpha1.Volume) { edit(&v.Status) })
			c := recorded(t, f, metav1.ConditionFalse, "status."+name+" changed by hand to ")
			if c.Reason != "EditedByHand" || !strings.HasPrefix(c.Message, "status."+name+" changed") || len(c.Message) >= maxMessage {
				t.Errorf("condition %+v", c)
			}
			next, err := open(f, "pod-2", "n1").Load(t.Context())
			if err := errors.Join(err, next.Check()); !errors.Is(err, volume.ErrRecord) || !strings.Contains(err.Error(), "status."+name) {
				t.Errorf("a later target: %v", err)
			}
			f.patched(t, c.Message)
			recorded(t, f, metav1.ConditionTrue, "")
			if now, err := v.Load(t.Context()); err != nil || !now.Equal(wrote) {
				t.Errorf("record %+v, %v; was %+v", now, err, wrote)
			}
			if n := f.alarms(); n != 1 {
				t.Errorf("%d events", n)
			}
		})
	}
}

// TestEditedElsewhere: a status that was emptied, that lacks where a voter is, and
// one that was put back but for the mark.
func TestEditedElsewhere(t *testing.T) {
	f := newFake()
	v, _ := serving(t, f, "pod-1")
	following(t, v)
	whole := f.status()
	f.edit(func(v *v1alpha1.Volume) { v.Status = v1alpha1.VolumeStatus{} })
	recorded(t, f, metav1.ConditionFalse, "status.epoch, status.holder, status.initialized, ")
	f.edit(func(v *v1alpha1.Volume) {
		marked := v.Status.Refused
		v.Status = *whole.DeepCopy()
		v.Status.Refused = marked
	})
	f.patched(t, recorded(t, f, metav1.ConditionFalse, "but status.refused").Message)
	recorded(t, f, metav1.ConditionTrue, "")
	f.edit(func(v *v1alpha1.Volume) { v.Status.Replicas = v.Status.Replicas[:2] })
	recorded(t, f, metav1.ConditionFalse, "replica r2 votes")
}

// TestCoreMeetsItToo: the core, which finds the edit when it wants to change the
// record, marks it as well; that makes it no record to go by.
func TestCoreMeetsItToo(t *testing.T) {
	f := newFake()
	v, _ := serving(t, f, "pod-1")
	f.edit(func(v *v1alpha1.Volume) { v.Status.Voters = v.Status.Voters[:2] })
	edited, err := v.Load(t.Context())
	must(t, err)
	must(t, v.judge(t.Context()))
	f.edit(func(v *v1alpha1.Volume) { v.Status.Refused = "" })
	marked, wrong := edited.Refuse("pod-1", errors.New("voters"))
	if !wrong {
		t.Fatal("not the core's to refuse")
	}
	must(t, v.CompareAndSwap(t.Context(), edited, marked))
	must(t, v.judge(t.Context()))
	recorded(t, f, metav1.ConditionFalse, "status.voters")
}

// again acquires an epoch, however often that has to be tried.
func again(t *testing.T, v *Volume) volume.Record {
	t.Helper()
	for {
		old, err := v.Load(t.Context())
		must(t, err)
		next := old
		next.Epoch, next.Holder = old.Epoch+1, v.o.Pod
		if err = v.CompareAndSwap(t.Context(), old, next); err == nil {
			return next
		}
		must(t, v.judge(t.Context()))
	}
}

// TestNoAlarm: whatever targets do, in whatever order its news arrive and however
// its answers are lost, nobody is said to have edited the record.
func TestNoAlarm(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		f := newFake()
		v, rec := serving(t, f, "pod-1")
		following(t, v)
		for step := range 60 {
			next := rec
			next.Voters = []quorum.ReplicaID{"r0", "r1", "r2"}[:2+rng.IntN(2)]
			next.Zones = map[quorum.ReplicaID]string{"r0": "a", "r1": fmt.Sprint(step)}
			if len(next.Voters) == 3 {
				next.Zones["r2"] = "b"
			}
			switch rng.IntN(6) {
			case 0: // the answer is lost, before or after it was stored
				f.lose([]string{"call", "answer"}[rng.IntN(2)])
			case 1:
				f.edit(func(v *v1alpha1.Volume) { v.Status.State = fmt.Sprint(step) })
			case 2:
				f.closeWatches()
			case 3:
				f.before = func() {
					f.before = nil
					f.edit(func(v *v1alpha1.Volume) { v.Status.State = "meanwhile" })
				}
			case 4: // somebody takes over and gives it back
				other, taken := serving(t, f, fmt.Sprintf("pod-2-%d", step))
				free := taken
				free.Holder = ""
				must(t, other.CompareAndSwap(t.Context(), taken, free))
				rec = again(t, v)
				continue
			case 5: // it begins anew, not knowing that it has
				f.lose("answer")
				rec = again(t, v)
				continue
			}
			for err := errDown; err != nil; { // as the core: until it is known what has become of it
				if err = v.CompareAndSwap(t.Context(), rec, next); errors.Is(err, volume.ErrConflict) {
					now, err := v.Load(t.Context())
					if err != nil || !now.Equal(next) {
						t.Fatalf("seed %d: %v, record %+v, want %+v or %+v", seed, err, now, rec, next)
					}
					break
				}
			}
			rec = next
		}
		end := rec
		end.Holder = ""
		must(t, v.CompareAndSwap(context.WithoutCancel(t.Context()), rec, end))
		acquire(t, open(f, "pod-3", "n1"))
		must(t, v.judge(t.Context()))
		if n, st := f.alarms(), f.status(); n != 0 || st.Refused != "" || slices.ContainsFunc(st.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionRecorded }) {
			t.Fatalf("seed %d: %d alarms, status %+v", seed, n, st)
		}
	}
}
