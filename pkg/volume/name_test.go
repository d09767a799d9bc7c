package volume

import (
	"testing"

	"github.com/cask-storage/cask/pkg/history"
)

func TestAfterLoss(t *testing.T) {
	base := SubsystemNQN("pvc-1")
	for _, lost := range []uint64{0, 1, 7, 1<<64 - 1} {
		name := AfterLoss(base, history.Epoch(lost))
		if got, ok := LossOf(base, name); !ok || uint64(got) != lost {
			t.Errorf("%s: %d %v", name, got, ok)
		}
	}
	for _, other := range []string{"", base + "0", base + ":lost-", base + ":lost-07", base + ":lost-0", base + ":lost-x", SubsystemNQN("pvc-10"), SubsystemNQN("pvc")} {
		if got, ok := LossOf(base, other); ok {
			t.Errorf("%q is taken for the volume after loss %d", other, got)
		}
	}
}
