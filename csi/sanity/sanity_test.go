//go:build linux

package sanity

import (
	"path/filepath"
	"testing"

	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"
)

// TestSanity runs csi-sanity: on stand-ins for host and agent, and, where the
// host allows, on the real thing, for file systems and for raw block volumes.
func TestSanity(t *testing.T) {
	suite := func(name, access string, d *driver) {
		dir := filepath.Dir(d.socket)
		cfg := csisanity.NewTestConfig()
		cfg.Address = "unix://" + d.socket
		cfg.TargetPath, cfg.StagingPath = filepath.Join(dir, "target"), filepath.Join(dir, "staging")
		cfg.TestVolumeSize = 64 << 20
		cfg.TestVolumeAccessType = access
		cfg.TestVolumeParameters = map[string]string{"replicas": "2", "consistency": "all", "csi.storage.k8s.io/pvc/name": ""}
		cfg.IdempotentCount = 3
		ginkgo.Describe(name, func() { csisanity.GinkgoTest(&cfg) })
	}
	suite("stand-ins", "mount", newDriver(t, &fakeAttacher{}, &fakeMounts{}))
	if err := hostProblem(); err != nil {
		t.Logf("not on the real host: %v", err)
	} else {
		suite("host, file system", "mount", newDriver(t, nil, nil))
		suite("host, block", "block", newDriver(t, nil, nil))
		t.Cleanup(func() {
			for _, l := range loopsLeft("cask-") {
				t.Errorf("left behind: %s", l)
			}
		})
	}
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "csi-sanity")
}
