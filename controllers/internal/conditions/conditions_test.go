package conditions

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWorstWins(t *testing.T) {
	s := New()
	s.Add(metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "AllReady"})
	s.Add(metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "NodeDown"})
	s.Add(metav1.Condition{Type: "Ready", Status: metav1.ConditionUnknown, Reason: "NoReport"})
	s.Add(metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: "Second"})
	var recorded []metav1.Condition
	changed := s.Apply(&recorded, 7)
	if len(changed) != 1 || len(recorded) != 1 || recorded[0].Reason != "NodeDown" || recorded[0].ObservedGeneration != 7 {
		t.Fatalf("recorded %+v, changed %+v", recorded, changed)
	}
	if changed := s.Apply(&recorded, 7); len(changed) != 0 {
		t.Errorf("the second pass changed %+v", changed)
	}
}

func TestApplyLeavesOthersAlone(t *testing.T) {
	recorded := []metav1.Condition{{Type: "Serving", Status: metav1.ConditionTrue, Reason: "Serving"}}
	s := New()
	s.Add(metav1.Condition{Type: "Placed", Status: metav1.ConditionFalse, Reason: "NoPoolMatches"})
	s.Apply(&recorded, 1)
	if len(recorded) != 2 || recorded[0].Reason != "Serving" {
		t.Errorf("recorded %+v", recorded)
	}
}
