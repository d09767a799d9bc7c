//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// image has a shell and the usual tools; the lab has it.
const image = "localhost/cask-example-postgres:dev"

func TestMain(m *testing.M) {
	if os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "no KUBECONFIG: run hack/test.sh e2e, or make lab-up and follow what it says")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// try runs kubectl.
func try(stdin string, args ...string) (string, error) {
	cmd := exec.Command("timeout", append([]string{"300", "kubectl"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := try("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// namespace makes one for the test and takes it away, with its volumes.
func namespace(t *testing.T) string {
	t.Helper()
	ns := "e2e-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	kubectl(t, "create", "namespace", ns)
	t.Cleanup(func() {
		if t.Failed() {
			for _, args := range [][]string{{"-n", ns, "get", "pods,pvc", "-o", "wide"}, {"-n", ns, "get", "events"}, {"get", "volumes", "-o", "yaml"}} {
				out, err := try("", args...)
				t.Logf("%v: %v\n%s", args, err, out)
			}
		}
		if _, err := try("", "delete", "namespace", ns, "--timeout=100s"); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func apply(t *testing.T, yaml string) {
	t.Helper()
	if _, err := try("---\n"+yaml, "apply", "-f", "-"); err != nil { // a document that begins with a brace would be taken for JSON
		t.Fatal(err)
	}
}

// eventually waits until f has nothing to complain about.
func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("after %v: %v", within, err)
}

// says waits until the output of kubectl contains every word.
func says(t *testing.T, within time.Duration, words []string, args ...string) {
	t.Helper()
	eventually(t, within, func() error {
		out, err := try("", args...)
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Errorf("%v does not say %q (%v):\n%s", args, w, err, out)
			}
		}
		return nil
	})
}

// class makes a StorageClass of the test's own.
func class(t *testing.T, name string, parameters map[string]string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: %s}, provisioner: csi.cask.storage, allowVolumeExpansion: true, parameters: {", name)
	for k, v := range parameters {
		fmt.Fprintf(&b, "%s: %q, ", k, v)
	}
	b.WriteString("}}")
	apply(t, b.String())
	t.Cleanup(func() {
		if _, err := try("", "delete", "storageclass", name); err != nil {
			t.Error(err)
		}
	})
}

// claim makes a PVC named data.
func claim(t *testing.T, ns, class, size, mode string) {
	t.Helper()
	apply(t, fmt.Sprintf("{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: %s}, spec: {storageClassName: %s, "+
		"accessModes: [ReadWriteOnce], volumeMode: %s, resources: {requests: {storage: %s}}}}", ns, class, mode, size))
}

// pod runs a shell that sleeps, with the claim data at /data or /dev/data.
func pod(t *testing.T, ns, name, node, mode string) {
	t.Helper()
	use := "volumeMounts: [{name: data, mountPath: /data}]"
	if mode == "Block" {
		use = "volumeDevices: [{name: data, devicePath: /dev/data}]"
	}
	apply(t, fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: %s}, spec: {nodeName: %q, terminationGracePeriodSeconds: 0, "+
		"containers: [{name: c, image: %q, imagePullPolicy: IfNotPresent, command: [sleep, infinity], securityContext: {runAsUser: 0}, %s}], "+
		"volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]}}", name, ns, node, image, use))
}

func ready(t *testing.T, ns, name string) {
	t.Helper()
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/"+name, "--timeout=100s")
}

func sh(t *testing.T, ns, name, script string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "exec", name, "--", "sh", "-ec", script)
}

// volumeOf is the Volume behind the claim data.
func volumeOf(t *testing.T, ns string) string {
	t.Helper()
	return kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
}

func nodes(t *testing.T) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
}
