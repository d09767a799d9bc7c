//go:build linux

package sanity

import (
	"path/filepath"
	"strings"
	"testing"

	csispec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// TestStageWithKeys: a volume whose nodes prove themselves is attached with the
// keys of its Secret, and not without; another one's are left alone. What is
// refused says what to do, and tells no key.
func TestStageWithKeys(t *testing.T) {
	keys, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	secret := map[string]string{v1alpha1.KeyDHCHAPHost: keys.Host, v1alpha1.KeyDHCHAPController: keys.Controller}
	for name, c := range map[string]struct {
		authentication string
		secrets        map[string]string
		code           codes.Code
		words          []string
		given          dhchap.Secrets
	}{
		"with":     {"nodes", secret, codes.OK, nil, keys},
		"without":  {"nodes", nil, codes.FailedPrecondition, []string{"StorageClass", "csi.storage.k8s.io/node-{stage,publish}-secret-{name,namespace}"}, dhchap.Secrets{}},
		"half":     {"nodes", map[string]string{v1alpha1.KeyDHCHAPHost: keys.Host}, codes.FailedPrecondition, []string{v1alpha1.KeyDHCHAPController}, dhchap.Secrets{}},
		"damaged":  {"nodes", map[string]string{v1alpha1.KeyDHCHAPHost: keys.Host[:20], v1alpha1.KeyDHCHAPController: keys.Controller}, codes.FailedPrecondition, []string{"-auth", "SecretReady"}, dhchap.Secrets{}},
		"not used": {"none", map[string]string{"password": "x"}, codes.OK, nil, dhchap.Secrets{}},
		"newer":    {"people", secret, codes.FailedPrecondition, []string{"people", "cask-csi-node"}, dhchap.Secrets{}},
	} {
		t.Run(name, func(t *testing.T) {
			attacher := &fakeAttacher{}
			d := newDriver(t, attacher, &fakeMounts{})
			v := &volume{t: t, d: d, cap: capOf("ext4")}
			said := c.authentication
			if said == "people" {
				said = "none"
			}
			r, err := d.ctl.CreateVolume(t.Context(), &csispec.CreateVolumeRequest{Name: "pvc-keys", VolumeCapabilities: []*csispec.VolumeCapability{v.cap},
				Parameters: map[string]string{"authentication": said}})
			if err != nil {
				t.Fatal(err)
			}
			v.id = r.GetVolume().GetVolumeId()
			v.attach()
			if said != c.authentication {
				v.publish["authentication"] = c.authentication
			}
			_, err = d.node.NodeStageVolume(t.Context(), &csispec.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: filepath.Join(t.TempDir(), "staging"),
				VolumeCapability: v.cap, PublishContext: v.publish, Secrets: c.secrets})
			text := status.Convert(err).Message()
			if status.Code(err) != c.code || attacher.last.Secrets != c.given {
				t.Errorf("%v, and the right keys given is %v", err, attacher.last.Secrets == c.given)
			}
			for _, w := range c.words {
				if !strings.Contains(text, w) || !strings.Contains(text, v.id) {
					t.Errorf("%q does not say %q and %s", text, w, v.id)
				}
			}
			if strings.Contains(text, "DHHC-1:01") {
				t.Errorf("%q tells a key", text)
			}
		})
	}
}
