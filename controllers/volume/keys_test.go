package volume

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/resources"
)

func (b *bench) targetKeys() string {
	return b.s.Deployments["pvc-1-ctrl"].Spec.Template.Annotations[resources.AnnotationKeys]
}

// TestKeysBeforeTheTarget: keys are made once, also when a node was promised the
// volume before, and no target is there without them.
func TestKeysBeforeTheTarget(t *testing.T) {
	b := newBench(t)
	b.s.Volume.Spec.Authentication = v1alpha1.AuthenticationNodes
	b.s.Volume.Spec.Attachment = &v1alpha1.VolumeAttachment{Node: "node0", ID: "a"}
	for range 20 {
		_, busy := b.pass()
		if _, built := b.s.Deployments["pvc-1-ctrl"]; built && b.secrets == 0 {
			t.Fatal("a target before its keys")
		}
		if !busy {
			break
		}
	}
	b.serve()
	if b.secrets != 1 || b.targetKeys() != "secret1" {
		t.Errorf("%d Secrets made, the target has %q", b.secrets, b.targetKeys())
	}
	b.condition(v1alpha1.ConditionSecret, "SecretUsable")
	for _, e := range b.events {
		if e.Reason == reasonMakingKeys {
			t.Errorf("event %+v is no news", e)
		}
	}
}

// TestKeysInTrouble: what is wrong is said again and again, the target that runs
// goes on, none is started, and keys are not made under a node that needs the
// old ones.
func TestKeysInTrouble(t *testing.T) {
	good := Keys{Secret: "secret1", Owner: "uid", Good: true}
	attached := &v1alpha1.VolumeAttachment{Node: "node7", ID: "a"}
	for name, tc := range map[string]struct {
		keys     Keys
		attached *v1alpha1.VolumeAttachment
		fenced   bool
		reason   string
		made     int // Secrets in all
		words    []string
	}{
		"gone while attached": {Keys{}, attached, false, "SecretMissing", 1, []string{"pvc-1-auth", v1alpha1.Namespace, "node7", "backup"}},
		"gone while fenced":   {Keys{}, nil, true, "SecretMissing", 1, []string{"withdrawn", "backup"}},
		"gone":                {Keys{}, nil, false, "SecretUsable", 2, nil},
		"damaged":             {Keys{Secret: "x", Owner: "uid"}, attached, false, "SecretDamaged", 1, []string{"pvc-1-auth", "dhchap.host", "backup"}},
		"an earlier volume's": {Keys{Secret: "x", Owner: "uid0", Good: true}, nil, false, "SecretOfAnother", 1, []string{"pvc-1-auth", "delete it"}},
		"from a backup":       {Keys{Secret: "x", Good: true}, attached, false, "SecretUsable", 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.s.Volume.Spec.Authentication = v1alpha1.AuthenticationNodes
			b.serve()
			b.s.Keys, b.s.Volume.Spec.Attachment = tc.keys, tc.attached
			if tc.fenced {
				b.s.Volume.Annotations = map[string]string{v1alpha1.AnnotationFenced: "{}"}
			}
			b.settle()
			b.condition(v1alpha1.ConditionSecret, tc.reason)
			c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionSecret)
			for _, w := range tc.words {
				if !strings.Contains(c.Message, w) {
					t.Errorf("%q does not say %q", c.Message, w)
				}
			}
			usable := tc.reason == "SecretUsable"
			if b.secrets != tc.made || (c.Status == metav1.ConditionTrue) != usable {
				t.Errorf("%d Secrets made, %+v", b.secrets, c)
			}
			want := good.Secret // the target there was
			if usable {
				want = b.s.Keys.Secret
			}
			if b.targetKeys() != string(want) {
				t.Errorf("the target has the keys of %s, want %s", b.targetKeys(), want)
			}
			if plan, _ := b.pass(); (plan.Again == 0) != usable {
				t.Errorf("looked at again after %v", plan.Again)
			}
			if usable {
				return
			}
			delete(b.s.Deployments, "pvc-1-ctrl")
			if b.s.Keys.Secret != "" { // else there have never been any
				b.settle()
				if _, built := b.s.Deployments["pvc-1-ctrl"]; built {
					t.Error("a target was started with them")
				}
			}
			b.s.Keys = good
			b.settle()
			b.condition(v1alpha1.ConditionSecret, "SecretUsable")
		})
	}
}
