package volume

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// TestSecret: a Secret that nobody can log in with is said by name, again and
// again until it is right.
func TestSecret(t *testing.T) {
	right := map[string]int{v1alpha1.KeyCHAPUser: 5, v1alpha1.KeyCHAPSecret: 16}
	for _, tc := range []struct {
		reason string
		keys   map[string]int
		words  []string
	}{
		{"SecretMissing", nil, []string{"chap", v1alpha1.Namespace, v1alpha1.KeyCHAPSecret}},
		{"SecretIncomplete", map[string]int{v1alpha1.KeyCHAPUser: 5, "password": 16}, []string{"chap", v1alpha1.KeyCHAPSecret}},
		{"SecretTooLong", map[string]int{v1alpha1.KeyCHAPUser: 5, v1alpha1.KeyCHAPSecret: v1alpha1.MaxSecret + 1}, []string{"4096"}},
		{"SecretUsable", right, []string{"chap"}},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			b := newBench(t)
			b.s.Volume.Spec.Frontend, b.s.Volume.Spec.AuthenticationSecret = v1alpha1.FrontendISCSI, "chap"
			b.s.Secret = tc.keys
			b.serve()
			b.condition(v1alpha1.ConditionSecret, tc.reason)
			c := meta.FindStatusCondition(b.s.Volume.Status.Conditions, v1alpha1.ConditionSecret)
			for _, w := range tc.words {
				if !strings.Contains(c.Message, w) {
					t.Errorf("%q does not say %q", c.Message, w)
				}
			}
			plan, _ := b.pass()
			if usable := tc.reason == "SecretUsable"; (plan.Again == 0) != usable || (c.Status == metav1.ConditionTrue) != usable {
				t.Errorf("%+v, looked at again after %v", c, plan.Again)
			}
			b.s.Secret = right
			b.settle()
			b.condition(v1alpha1.ConditionSecret, "SecretUsable")
		})
	}
}
