package nodefailure

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/cask-storage/cask/api/v1alpha1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// lost is a node "dead", not ready for so long, and one volume "v" attached to
// it and served from the node "live".
func lost(since time.Duration) *Snapshot {
	return &Snapshot{
		Node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "dead"},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
				Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(now.Add(-since)),
			}}},
		},
		Volumes: []v1alpha1.Volume{{
			ObjectMeta: metav1.ObjectMeta{Name: "v"},
			Spec:       v1alpha1.VolumeSpec{Attachment: &v1alpha1.VolumeAttachment{Node: "dead", ID: "a1"}},
			Status:     v1alpha1.VolumeStatus{Epoch: 3, Target: v1alpha1.VolumeTarget{Pod: "ctrl", Node: "live", Attachment: "a1"}},
		}},
		Attachments: []storagev1.VolumeAttachment{attachment(v1alpha1.DriverName, "v", "dead")},
		Now:         now,
		Grace:       10 * time.Second,
	}
}

func attachment(driver, volume, node string) storagev1.VolumeAttachment {
	return storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{UID: "record"}, Spec: storagev1.VolumeAttachmentSpec{
		Attacher: driver, NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To(volume)},
	}}
}

// withdrawn is the same after the attachment was taken away, and the target
// has confirmed it.
func withdrawn() *Snapshot {
	s := lost(time.Minute)
	v := &s.Volumes[0]
	text, _ := json.Marshal(Withdrawn{*v.Spec.Attachment, "record"})
	v.Annotations = map[string]string{v1alpha1.AnnotationFenced: string(text)}
	v.Spec.Attachment = nil
	v.Status.Target.Attachment = ""
	return s
}

func (s *Snapshot) volume() *v1alpha1.Volume { return &s.Volumes[0] }

func (s *Snapshot) ready() {
	s.Node.Status.Conditions[0].Status = corev1.ConditionTrue
}

func (s *Snapshot) taint() {
	s.Node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
	s.Node.Annotations = map[string]string{v1alpha1.AnnotationTainted: "true"}
}

// pods are one that goes on and one that was told to end.
func pods() []corev1.Pod {
	return []corev1.Pod{
		{ObjectMeta: metav1.ObjectMeta{Name: "stays"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "told", DeletionTimestamp: &metav1.Time{Time: now}}},
	}
}

func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    *Snapshot
		edit func(*Snapshot)
		want string // what is planned, in words
	}{
		{"node is ready", lost(time.Minute), func(s *Snapshot) { s.ready() }, ""},
		{"briefly not ready", lost(9 * time.Second), nil, "again in 1s"},
		{"no volume of ours", lost(time.Minute), func(s *Snapshot) { s.Volumes, s.Attachments = nil, nil }, ""},
		{"volume on another node", lost(time.Minute), func(s *Snapshot) {
			s.volume().Spec.Attachment.Node = "live"
			s.Attachments = nil
		}, ""},
		{"another driver's volume only", lost(time.Minute), func(s *Snapshot) {
			s.Volumes = nil
			s.Attachments = []storagev1.VolumeAttachment{attachment("disk.example", "v", "dead")}
		}, ""},
		{"long not ready", lost(10 * time.Second), nil, "withdraw v, wait, again in 5s"},
		{"condition False is not ready either", lost(time.Minute), func(s *Snapshot) { s.Node.Status.Conditions[0].Status = corev1.ConditionFalse }, "withdraw v, wait, again in 5s"},
		{"node without conditions", lost(time.Minute), func(s *Snapshot) {
			s.Node.Status.Conditions = nil
			s.Node.CreationTimestamp = metav1.NewTime(now.Add(-time.Second))
		}, "again in 9s"},
		{"attached by our word only", lost(time.Minute), func(s *Snapshot) { s.Attachments = nil }, "withdraw v, wait, again in 5s"},

		{"fenced", withdrawn(), nil, "taint"},
		{"never served", withdrawn(), func(s *Snapshot) { s.volume().Status = v1alpha1.VolumeStatus{} }, "taint"},
		{"target admits the old attachment", withdrawn(), func(s *Snapshot) { s.volume().Status.Target.Attachment = "a1" }, "wait, again in 5s"},
		{"target is on the node", withdrawn(), func(s *Snapshot) { s.volume().Status.Target.Node = "dead" }, "wait, again in 5s"},
		{"target says not where", withdrawn(), func(s *Snapshot) { s.volume().Status.Target.Node = "" }, "wait, again in 5s"},
		{"serves another node already", withdrawn(), func(s *Snapshot) {
			s.volume().Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "live", ID: "a2"}
			s.volume().Status.Target.Attachment = "a2"
		}, "taint, forget v"},
		{"attached elsewhere, target is not that far", withdrawn(), func(s *Snapshot) {
			s.volume().Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "live", ID: "a2"}
			s.volume().Status.Target.Attachment = "a1"
		}, "wait, forget v, again in 5s"},
		{"moved on", withdrawn(), func(s *Snapshot) {
			s.taint()
			s.volume().Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "live", ID: "a2"}
			s.Attachments = nil
		}, "forget v"},
		{"second volume is not fenced", withdrawn(), func(s *Snapshot) {
			second := lost(0).Volumes[0]
			second.Name = "w"
			s.Volumes = append(s.Volumes, second)
		}, "withdraw w, wait, again in 5s"},
		{"other drivers' volumes there", withdrawn(), func(s *Snapshot) {
			s.Attachments = append(s.Attachments, attachment("disk.example", "x", "dead"))
		}, "refuse"},
		{"other drivers' volumes elsewhere", withdrawn(), func(s *Snapshot) {
			s.Attachments = append(s.Attachments, attachment("disk.example", "x", "live"))
		}, "taint"},
		{"tainted already", withdrawn(), func(s *Snapshot) { s.taint() }, "again in 1s"},
		{"its pods are told to end", withdrawn(), func(s *Snapshot) { s.taint(); s.Pods = pods() }, "delete told, again in 1s"},
		{"pods of a node tainted by a person", withdrawn(), func(s *Snapshot) { s.taint(); s.Node.Annotations = nil; s.Pods = pods() }, ""},
		{"pods of a node that is back", withdrawn(), func(s *Snapshot) { s.ready(); s.taint(); s.Pods = pods() }, "untaint, restore v"},
		{"pods before a volume is fenced", withdrawn(), func(s *Snapshot) {
			s.taint()
			s.Pods = pods()
			s.volume().Status.Target.Attachment = "a1"
		}, "wait"},
		{"tainted by a person, not fenced", lost(time.Minute), func(s *Snapshot) {
			s.Node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
		}, "withdraw v, wait"},

		{"back in time", withdrawn(), func(s *Snapshot) { s.ready() }, "restore v"},
		{"back after the taint", withdrawn(), func(s *Snapshot) { s.ready(); s.taint(); s.Attachments = nil }, "untaint, forget v"},
		{"back while being detached", withdrawn(), func(s *Snapshot) {
			s.ready()
			s.Attachments[0].DeletionTimestamp = &metav1.Time{Time: now}
		}, "forget v"},
		{"back, and attached anew by Kubernetes", withdrawn(), func(s *Snapshot) { s.ready(); s.Attachments[0].UID = "newer" }, "forget v"},
		{"back after the move", withdrawn(), func(s *Snapshot) {
			s.ready()
			s.volume().Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "live", ID: "a2"}
		}, "forget v"},
		{"another node is back", withdrawn(), func(s *Snapshot) { s.ready(); s.Node.Name = "third" }, ""},
		{"a person's taint stays", withdrawn(), func(s *Snapshot) { s.ready(); s.taint(); s.Node.Annotations = nil }, "restore v"},
		{"unreadable annotation", withdrawn(), func(s *Snapshot) { s.ready(); s.volume().Annotations[v1alpha1.AnnotationFenced] = "{" }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.edit != nil {
				tc.edit(tc.s)
			}
			plan := Decide(tc.s)
			if got := words(plan); got != tc.want {
				t.Errorf("plan is %q, want %q", got, tc.want)
			}
		})
	}
}

// words says what a plan does.
func words(p Plan) string {
	var w []string
	list := func(verb string, volumes []*v1alpha1.Volume) {
		for _, v := range volumes {
			w = append(w, verb+" "+v.Name)
		}
	}
	for _, x := range p.Withdraw {
		w = append(w, "withdraw "+x.Volume.Name)
	}
	if len(p.Waiting) > 0 {
		w = append(w, "wait")
	}
	if p.Taint {
		w = append(w, "taint")
	}
	if p.Untaint {
		w = append(w, "untaint")
	}
	for i := range p.Delete {
		w = append(w, "delete "+p.Delete[i].Name)
	}
	list("restore", p.Restore)
	list("forget", p.Forget)
	if slices.ContainsFunc(p.Events, func(e Event) bool { return e.Reason == "OutOfServiceRefused" }) {
		w = append(w, "refuse")
	}
	if p.Again > 0 {
		w = append(w, "again in "+p.Again.String())
	}
	return strings.Join(w, ", ")
}

// TestEvents: people read on the node and on the volume what was done and why.
func TestEvents(t *testing.T) {
	var onNode, onVolume string
	for _, e := range Decide(withdrawn()).Events {
		if e.Volume == nil {
			onNode = e.Message
		} else {
			onVolume = e.Message
		}
	}
	for _, want := range []string{"dead", "(v)", "fenced", "removed when the node is ready"} {
		if !strings.Contains(onNode, want) {
			t.Errorf("event on the node lacks %q: %s", want, onNode)
		}
	}
	if !strings.Contains(onVolume, "volume v is fenced from it") {
		t.Errorf("event on the volume: %s", onVolume)
	}
}

// TestWithdrawRestore: what is taken away is given back exactly.
func TestWithdrawRestore(t *testing.T) {
	plan := Decide(lost(time.Minute))
	w := plan.Withdraw[0]
	v, before := w.Volume, *w.Volume.Spec.Attachment
	if err := w.apply(v); err != nil || v.Spec.Attachment != nil {
		t.Fatalf("withdraw: %v, %+v", err, v.Spec.Attachment)
	}
	if kept, ok := Kept(v); !ok || kept.Record != "record" {
		t.Errorf("kept %+v", kept)
	}
	if err := restore(v); err != nil || *v.Spec.Attachment != before || len(v.Annotations) != 0 {
		t.Errorf("restore: %v, %+v", err, v)
	}
}
