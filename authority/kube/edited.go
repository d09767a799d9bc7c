package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/volume"
)

// judge looks whether anybody but this target has changed the record. Then it
// tells people, and sees to it that no later target goes by it.
func (v *Volume) judge(ctx context.Context) error {
	v.mu.Lock()
	latest := v.latest
	v.mu.Unlock()
	var news []metav1.Condition
	judged := func(obj *v1alpha1.Volume) error {
		before := obj.Status.DeepCopy()
		news = v.judged(obj)
		if equality.Semantic.DeepEqual(before, &obj.Status) {
			return errUnchanged
		}
		latest = obj
		return nil
	}
	if latest == nil || judged(latest.DeepCopy()) != nil {
		return nil // as nearly always
	}
	if err := v.update(ctx, judged); err != nil {
		return fmt.Errorf("the record was changed by hand, which could not be told: %w", err)
	}
	for _, c := range news {
		v.tell(ctx, latest, c)
	}
	return nil
}

// judged writes into obj what there is to say of its record.
func (v *Volume) judged(obj *v1alpha1.Volume) []metav1.Condition {
	v.mu.Lock()
	written, holder := v.written, v.holder
	v.mu.Unlock()
	now, err := recordOf(obj)
	if len(written) == 0 || now.Epoch > written[0].Epoch && now.Holder != holder {
		return nil // not, or no longer, this target's to judge
	}
	c := metav1.Condition{Type: v1alpha1.ConditionRecorded, Status: metav1.ConditionFalse, Reason: "EditedByHand"}
	if err == nil && slices.ContainsFunc(written, now.Equal) {
		if now.Refused != "" || !meta.IsStatusConditionFalse(obj.Status.Conditions, c.Type) {
			return nil
		}
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, "AsWritten", "the record is what the target wrote"
		return set(obj, []metav1.Condition{c})
	}
	names, is, was := differences(now, written[0])
	switch {
	case err != nil:
		c.Message = err.Error()
		obj.Status.Refused = cut(c.Message)
	case len(names) == 0:
		c.Message = "the record is what the target wrote, but status.refused keeps later targets from it" + putBack(obj.Name, was)
	default:
		c.Message = fmt.Sprintf("%s changed by hand to %s. The target of epoch %d goes on by what it wrote, and no later one goes by this "+
			"(what is to change is changed in the spec)%s", strings.Join(names, ", "), is, written[0].Epoch, putBack(obj.Name, was))
		obj.Status.Refused = cut(c.Message)
	}
	return set(obj, []metav1.Condition{c})
}

func putBack(name string, was []byte) string {
	return fmt.Sprintf("; put it back: kubectl patch volume %s --subresource=status --type=merge -p '{\"status\":%s}'", name, was)
}

// differences names the fields of the status in which two records differ, and
// says, as JSON, what they are and the patch that makes them what they were.
func differences(now, before volume.Record) (names []string, is, was []byte) {
	a, b := recordFields(now), recordFields(before)
	to, back := map[string]any{}, map[string]any{"refused": nil}
	for name := range b {
		if !reflect.DeepEqual(a[name], b[name]) {
			names = append(names, "status."+name)
			to[name], back[name] = a[name], b[name]
		}
	}
	slices.Sort(names)
	is, _ = json.Marshal(to) // of strings and numbers: it cannot fail
	was, _ = json.Marshal(back)
	return names, is, was
}

// recordFields are those of the status that hold a record, but for why it is refused.
func recordFields(r volume.Record) map[string]any {
	obj := &v1alpha1.Volume{}
	record(obj, r)
	st := &obj.Status
	return map[string]any{"epoch": st.Epoch, "holder": st.Holder, "initialized": st.Initialized, "lostEpoch": st.LostEpoch,
		"voters": st.Voters, "level": st.Level, "voterZones": st.VoterZones, "localZone": st.LocalZone}
}
