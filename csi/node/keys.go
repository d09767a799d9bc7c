//go:build linux

package node

import (
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/publishcontext"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// keysOf are what this node proves itself to the volume's target with. No error
// holds any of them.
func keysOf(q *csi.NodeStageVolumeRequest, way publishcontext.Context) (dhchap.Secrets, error) {
	switch way.Authentication {
	case "":
		return dhchap.Secrets{}, nil
	case v1alpha1.AuthenticationNodes:
	default:
		return dhchap.Secrets{}, status.Errorf(codes.FailedPrecondition, "volume %s: authentication %q is newer than this node's driver; "+
			"update the DaemonSets cask-csi-node and cask-attach", q.GetVolumeId(), way.Authentication)
	}
	of := q.GetSecrets()
	if of[v1alpha1.KeyDHCHAPHost] == "" || of[v1alpha1.KeyDHCHAPController] == "" {
		return dhchap.Secrets{}, status.Errorf(codes.FailedPrecondition, "volume %s has nodes prove themselves, and its keys %s and %s did not come along: its StorageClass must say "+
			"where they are, by the four parameters csi.storage.k8s.io/node-{stage,publish}-secret-{name,namespace} (${pv.name}-auth and the namespace of Cask, as in "+
			"deploy/examples/storageclass.yaml); put them there and make the claim again", q.GetVolumeId(), v1alpha1.KeyDHCHAPHost, v1alpha1.KeyDHCHAPController)
	}
	keys := dhchap.Secrets{Host: of[v1alpha1.KeyDHCHAPHost], Controller: of[v1alpha1.KeyDHCHAPController]}
	if err := keys.Check(); err != nil {
		return dhchap.Secrets{}, status.Errorf(codes.FailedPrecondition, "volume %s: the keys in its Secret %s are damaged: %v; "+
			"see its condition %s", q.GetVolumeId(), v1alpha1.AuthSecretName(q.GetVolumeId()), err, v1alpha1.ConditionSecret)
	}
	return keys, nil
}
