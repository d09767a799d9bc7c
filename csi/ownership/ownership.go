// Package ownership asks the API server which host a volume belongs to. It has
// no state.
package ownership

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/publishcontext"
)

// Reader reads Volumes.
type Reader struct{ Client client.Reader }

// Owner is the NQN of the one host that may use a volume now; empty when none
// may.
func (r Reader) Owner(ctx context.Context, volume string) (hostNQN string, err error) {
	var v v1alpha1.Volume
	err = r.Client.Get(ctx, client.ObjectKey{Name: volume}, &v)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look up whose volume %s is: %w", volume, err)
	}
	if a := v.Spec.Attachment; a != nil {
		return publishcontext.HostNQN(a.Node, a.ID), nil
	}
	return "", nil
}
