// Package apitest starts a real API server with Cask's CRDs for tests. The
// binaries (kube-apiserver, etcd, kubectl) come from the folder that
// KUBEBUILDER_ASSETS names, else from ${CASK_CACHE:-~/.cache/cask}/kube/bin;
// without them the test is skipped, with the reason.
package apitest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	corev1 "k8s.io/api/core/v1"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/controllers/internal/scheme"
)

// Start brings an API server up for the test and returns an administrator's
// configuration and client. The namespace cask-system exists.
func Start(t *testing.T) (*rest.Config, client.Client) {
	t.Helper()
	assets := assetsDir(t)
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..", "..")
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     []string{filepath.Join(root, "deploy", "crd")},
		ErrorIfCRDPathMissing: true,
	}
	cfg, err := env.Start()
	if err != nil {
		t.Fatalf("start API server from %s: %v", assets, err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stop API server: %v", err)
		}
	})
	c, err := client.New(cfg, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.Namespace}}
	if err := c.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return cfg, c
}

// assetsDir finds the server's binaries or skips the test.
func assetsDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("KUBEBUILDER_ASSETS")
	if dir == "" {
		cache := os.Getenv("CASK_CACHE")
		if cache == "" {
			home, _ := os.UserHomeDir()
			cache = filepath.Join(home, ".cache", "cask")
		}
		dir = filepath.Join(cache, "kube", "bin")
	}
	for _, bin := range []string{"kube-apiserver", "etcd", "kubectl"} {
		if _, err := os.Stat(filepath.Join(dir, bin)); err != nil {
			t.Skipf("no API server to test against: %v (run `make kube`, or point KUBEBUILDER_ASSETS at kube-apiserver, etcd and kubectl)", err)
		}
	}
	return dir
}
