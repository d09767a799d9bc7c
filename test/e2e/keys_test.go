//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/csi/publishcontext"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/host"
)

// TestHostWithoutKeys: who says the name of the node that has the volume, and
// cannot prove to be it, is refused, and disturbs nothing.
func TestHostWithoutKeys(t *testing.T) {
	ns, v := written(t)
	healthy(t, v)
	addr := forwarded(t, v)
	node, id, _ := strings.Cut(kubectl(t, "get", "volume", v, "-o", "jsonpath={.spec.attachment.node} {.spec.attachment.id}"), " ")
	made, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string]dhchap.Secrets{"none": {}, "other ones": made} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		d, err := host.Attach(ctx, host.Config{Addr: addr, SubsystemNQN: publishcontext.VolumeNQN(v), HostNQN: publishcontext.HostNQN(node, id),
			HostID: nvme.UUID{1}, Secrets: keys})
		cancel()
		if err == nil {
			_ = d.Close()
		}
		if !errors.Is(err, dhchap.ErrFailed) {
			t.Errorf("with keys %s: %v", name, err)
		}
	}
	intact(t, ns)
	kubectl(t, "-n", ns, "delete", "pod", "app")
	kubectl(t, "-n", ns, "delete", "pvc", "data")
	kubectl(t, "wait", "--for=delete", "volume/"+v, "--timeout=100s")
	eventually(t, 60*time.Second, func() error {
		if out, err := try("", "-n", "cask-system", "get", "secret", v+"-auth", "--ignore-not-found"); err != nil || out != "" {
			return fmt.Errorf("the volume is gone, and its keys still there: %w %s", err, out)
		}
		return nil
	})
}

// forwarded is a local address of the volume's target, as who has got into the
// network of the pods would reach it.
func forwarded(t *testing.T, volume string) (addr string) {
	t.Helper()
	cmd := exec.Command("kubectl", "-n", "cask-system", "port-forward", "deployment/"+volume+"-ctrl", ":4420")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n') // Forwarding from 127.0.0.1:PORT -> 4420
	addr, _, found := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ")
	if err != nil || !found {
		t.Fatalf("port-forward says %q, %v", line, err)
	}
	return addr
}
