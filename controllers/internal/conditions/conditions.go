// Package conditions computes a whole set of conditions anew in each pass:
// checks add what they find, the worst finding of each type wins, and the
// result replaces what was recorded only where it differs. Pure.
package conditions

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Set collects the findings of one pass.
type Set struct {
	found map[string]metav1.Condition
}

// New is an empty set.
func New() *Set { return &Set{found: map[string]metav1.Condition{}} }

// rank orders statuses from good to bad.
func rank(s metav1.ConditionStatus) int {
	return slices.Index([]metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionUnknown, metav1.ConditionFalse}, s)
}

// Add records a finding; of several of one type the worst stays, of equally
// bad ones the first.
func (s *Set) Add(c metav1.Condition) {
	if old, ok := s.found[c.Type]; ok && rank(old.Status) >= rank(c.Status) {
		return
	}
	s.found[c.Type] = c
}

// Apply writes the set into recorded and returns those whose status or reason
// changed. Conditions of types that are not in the set are somebody else's and
// stay as they are.
func (s *Set) Apply(recorded *[]metav1.Condition, generation int64) []metav1.Condition {
	var changed []metav1.Condition
	for _, typ := range s.types() {
		c := s.found[typ]
		c.ObservedGeneration = generation
		old := meta.FindStatusCondition(*recorded, typ)
		if old == nil || old.Status != c.Status || old.Reason != c.Reason {
			changed = append(changed, c)
		}
		meta.SetStatusCondition(recorded, c)
	}
	return changed
}

func (s *Set) types() []string {
	var types []string
	for t := range s.found {
		types = append(types, t)
	}
	slices.Sort(types)
	return types
}
