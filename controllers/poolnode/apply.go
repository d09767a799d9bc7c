package poolnode

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
)

// maxManager is Kubernetes' bound on a field manager's name.
const maxManager = 128

// fieldManager shortens a field manager's name that would be too long.
func fieldManager(name string) string {
	if len(name) <= maxManager {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s-%x", name[:100], sum[:8])
}

// applied is the part of a status that one field manager owns.
type applied struct {
	manager string
	status  map[string]any
}

// applyStatus applies to the very object that was read: one of the same name
// made since then is refused.
func applyStatus(ctx context.Context, c client.Client, obj client.Object, a applied) error {
	kind := "Volume"
	if _, ok := obj.(*v1alpha1.StoragePool); ok {
		kind = "StoragePool"
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(),
		"kind":       kind,
		"metadata":   map[string]any{"name": obj.GetName(), "uid": obj.GetUID()},
		"status":     a.status,
	})
	if err != nil {
		return fmt.Errorf("marshal status: %w", err)
	}
	into := obj.DeepCopyObject().(client.Object)
	return c.Status().Patch(ctx, into, client.RawPatch(types.ApplyPatchType, body),
		client.ForceOwnership, client.FieldOwner(a.manager))
}
