//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestRefusedClaims: a claim that cannot be had stays Pending, and its events
// say why and what to do.
func TestRefusedClaims(t *testing.T) {
	for name, x := range map[string]struct {
		parameters map[string]string
		size       string
		words      []string
	}{
		"unknown":  {map[string]string{"replica": "3"}, "64Mi", []string{`"replica"`, "replicas", "consistency"}},
		"value":    {map[string]string{"consistency": "most"}, "64Mi", []string{"consistency", "most", "quorum"}},
		"replicas": {map[string]string{"replicas": "5"}, "64Mi", []string{"5", "3", "node"}},
		"size":     {map[string]string{"replicas": "3"}, "900Ti", []string{"900Ti"}},
		"pool":     {map[string]string{"pool": "none-such"}, "64Mi", []string{"none-such"}},
		"selector": {map[string]string{"poolSelector": "disk=golden"}, "64Mi", []string{"disk=golden"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := namespace(t)
			class(t, ns, x.parameters)
			claim(t, ns, ns, x.size, "Filesystem")
			says(t, 60*time.Second, append(x.words, "ProvisioningFailed"), "-n", ns, "get", "events", "-o", "custom-columns=R:.reason,M:.message")
			if phase := kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.status.phase}"); phase != "Pending" {
				t.Errorf("the claim is %s", phase)
			}
			volume := "pvc-" + kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.metadata.uid}")
			kubectl(t, "-n", ns, "delete", "pvc", "data")
			eventually(t, 90*time.Second, func() error {
				if out, err := try("", "get", "volume", volume, "--ignore-not-found"); err != nil || out != "" {
					return fmt.Errorf("its claim is gone, and the Volume still there: %w %s", err, out)
				}
				return nil
			})
		})
	}
}

// TestInvalidObjects: what the API server itself refuses.
func TestInvalidObjects(t *testing.T) {
	for name, yaml := range map[string]string{
		"relative folder": "{apiVersion: cask.storage/v1alpha1, kind: StoragePool, metadata: {name: bad}, spec: {directory: var/lib}}",
		"nine replicas":   "{apiVersion: cask.storage/v1alpha1, kind: Volume, metadata: {name: bad}, spec: {size: 1Gi, replicas: 9}}",
		"odd consistency": "{apiVersion: cask.storage/v1alpha1, kind: Volume, metadata: {name: bad}, spec: {size: 1Gi, consistency: most}}",
	} {
		if out, err := try("---\n"+yaml, "apply", "-f", "-"); err == nil {
			t.Errorf("%s was taken: %s", name, out)
		}
	}
}

// TestMissingSecret: a volume whose initiators could not prove themselves says
// so, until they can.
func TestMissingSecret(t *testing.T) {
	name := namespace(t)
	apply(t, fmt.Sprintf("{apiVersion: cask.storage/v1alpha1, kind: Volume, metadata: {name: %s}, "+
		"spec: {size: 64Mi, replicas: 1, frontend: iscsi, authenticationSecret: %s}}", name, name))
	t.Cleanup(func() { _, _ = try("", "delete", "volume", name, "--wait=false") })
	secret := []string{"get", "volume", name, "-o", `jsonpath={.status.conditions[?(@.type=="SecretReady")].reason}`}
	says(t, 30*time.Second, []string{"SecretMissing"}, secret...)
	kubectl(t, "-n", "cask-system", "create", "secret", "generic", name,
		"--from-literal=node.session.auth.username=u", "--from-literal=node.session.auth.password=long enough a secret")
	t.Cleanup(func() { _, _ = try("", "-n", "cask-system", "delete", "secret", name) })
	says(t, 60*time.Second, []string{"SecretUsable"}, secret...)
	kubectl(t, "wait", "--for=condition=Serving", "volume/"+name, "--timeout=150s")
}

// TestSecondNode: a ReadWriteOnce volume is on one node only, and the pod on
// the other says so.
func TestSecondNode(t *testing.T) {
	ns := namespace(t)
	claim(t, ns, "cask", "64Mi", "Filesystem")
	n := nodes(t)
	pod(t, ns, "first", n[0], "Filesystem")
	// The class waits for a consumer that the scheduler has seen.
	kubectl(t, "-n", ns, "annotate", "pvc", "data", "volume.kubernetes.io/selected-node="+n[0])
	ready(t, ns, "first")
	pod(t, ns, "second", n[1], "Filesystem")
	says(t, 60*time.Second, []string{"Multi-Attach"}, "-n", ns, "get", "events", "-o", "custom-columns=M:.message")
	sh(t, ns, "first", "echo still > /data/mine; sync -f /data; cat /data/mine")
}

// TestPoolWithReplicas: a pool is not deleted while it holds replicas.
func TestPoolWithReplicas(t *testing.T) {
	ns := namespace(t)
	apply(t, "{apiVersion: cask.storage/v1alpha1, kind: StoragePool, metadata: {name: extra}, spec: {directory: /var/lib/cask/extra}}")
	kubectl(t, "wait", "--for=condition=Ready", "storagepool/extra", "--timeout=100s")
	class(t, ns, map[string]string{"replicas": "1", "pool": "extra"})
	claim(t, ns, ns, "64Mi", "Filesystem")
	kubectl(t, "-n", ns, "wait", "--for=jsonpath={.status.phase}=Bound", "pvc/data", "--timeout=100s")
	v := volumeOf(t, ns)
	kubectl(t, "delete", "storagepool", "extra", "--wait=false")
	says(t, 60*time.Second, []string{v}, "get", "storagepool", "extra", "-o", "jsonpath={.status.conditions}")
	kubectl(t, "wait", "--for=jsonpath={.status.state}=Healthy", "volume/"+v, "--timeout=60s")
	kubectl(t, "-n", ns, "delete", "pvc", "data")
	kubectl(t, "wait", "--for=delete", "storagepool/extra", "--timeout=100s")
}
