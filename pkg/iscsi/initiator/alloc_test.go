//go:build !race

package initiator_test

import (
	"testing"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
)

// TestNoAllocations: in the steady state neither side allocates for an I/O.
func TestNoAllocations(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	blocktest.NoAllocations(t, attach(t, newRig(t, mem, target.Config{}).config()))
}
