//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const example = "cask-example" // namespace of the example database, which the demo left running

// lab runs a command of the lab cluster.
func lab(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("../../hack/lab/lab", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("lab %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// number of a node of the lab: node3 is 3.
func number(node string) string { return strings.TrimPrefix(node, "node") }

// load starts the demo's client of the example database again, once the volume
// has got over what an earlier test did to it, for a second fault would be one
// too many: the client inserts numbered rows, and remembers which the database
// said are committed.
func load(t *testing.T) {
	t.Helper()
	pod, err := os.ReadFile("../../hack/demo/client.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", example, "wait", "--for=condition=Ready", "pod/postgres-0", "--timeout=100s")
	whole(t, databaseVolume(t), 100*time.Second)
	kubectl(t, "-n", example, "delete", "pod", "client", "--ignore-not-found", "--now")
	apply(t, string(pod))
	t.Cleanup(func() {
		if t.Failed() {
			pods, err := try("", "-n", example, "get", "pods", "-o", "wide")
			events, err2 := try("", "-n", example, "get", "events", "--sort-by=.lastTimestamp",
				"-o", "custom-columns=AT:.lastTimestamp,OF:.involvedObject.name,REASON:.reason,MESSAGE:.message")
			was, _ := try("", "-n", example, "logs", "postgres-0", "--previous", "--tail=40")
			is, _ := try("", "-n", example, "logs", "postgres-0", "--tail=40")
			kernel, _ := exec.Command("dmesg", "--level=warn,err,crit,alert,emerg").CombinedOutput()
			t.Logf("%v\n%s\n%s\nits log before its last restart:\n%s\nits log now:\n%s\nthe kernel's warnings:\n%s",
				errors.Join(err, err2), pods, events, was, is, tail(string(kernel), 40))
		}
	})
	progress(t, 120*time.Second, 100)
}

// tail returns the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func commits() (int, error) {
	out, err := try("", "-n", example, "exec", "client", "-c", "ledger", "--", "sh", "-c", "cat /work/acknowledged | wc -l")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(out)
}

// progress waits until the client has got more commits.
func progress(t *testing.T, within time.Duration, more int) {
	t.Helper()
	before, _ := commits()
	eventually(t, within, func() error {
		if now, err := commits(); err != nil || now < before+more {
			return fmt.Errorf("%d commits, %d before (%v)", now, before, err)
		}
		return nil
	})
}

// nothingLost compares what the client knows with what the database has.
func nothingLost(t *testing.T) {
	t.Helper()
	t.Log(kubectl(t, "-n", example, "exec", "client", "-c", "ledger", "--", "/client/client.sh", "check"))
}

func databaseNode(t *testing.T) string {
	t.Helper()
	return kubectl(t, "-n", example, "get", "pod", "postgres-0", "-o", "jsonpath={.spec.nodeName}")
}

func databaseVolume(t *testing.T) string {
	t.Helper()
	return kubectl(t, "-n", example, "get", "pvc", "postgres", "-o", "jsonpath={.spec.volumeName}")
}

// moved waits for the database to answer from another node.
func moved(t *testing.T, from string) {
	t.Helper()
	start := time.Now()
	eventually(t, 200*time.Second, func() error {
		node, err := try("", "-n", example, "get", "pod", "postgres-0", "-o", "jsonpath={.spec.nodeName}")
		if err != nil || node == from || node == "" {
			return fmt.Errorf("the database is on %q (%v)", node, err)
		}
		return nil
	})
	progress(t, 100*time.Second, 10)
	t.Logf("the database commits on %s %v after %s went", databaseNode(t), time.Since(start).Round(100*time.Millisecond), from)
}

// TestPartition: a node cut off the network goes on writing for all it knows;
// nothing of that is taken, and nothing that was acknowledged is lost.
func TestPartition(t *testing.T) {
	load(t)
	node := databaseNode(t)
	lab(t, "node-partition", number(node))
	t.Cleanup(func() { lab(t, "revive") })
	moved(t, node)
	nothingLost(t)
	lab(t, "node-heal", number(node))
	healthy(t, databaseVolume(t))
	progress(t, 30*time.Second, 10)
	nothingLost(t)
}

// TestNodeWithOperatorKilled: the node under the database is also the one that
// the operator and the CSI controller run on.
func TestNodeWithOperatorKilled(t *testing.T) {
	load(t)
	node := databaseNode(t)
	for _, n := range nodes(t) {
		if n != node {
			kubectl(t, "cordon", n)
			t.Cleanup(func() { kubectl(t, "uncordon", n) })
		}
	}
	for _, d := range []string{"cask-operator", "cask-csi-controller"} {
		kubectl(t, "-n", "cask-system", "rollout", "restart", "deployment/"+d)
		kubectl(t, "-n", "cask-system", "rollout", "status", "deployment/"+d, "--timeout=100s")
	}
	for _, n := range nodes(t) {
		kubectl(t, "uncordon", n)
	}
	healthy(t, databaseVolume(t))
	progress(t, 30*time.Second, 10)
	lab(t, "node-kill", number(node))
	t.Cleanup(func() { lab(t, "revive") })
	moved(t, node)
	nothingLost(t)
	lab(t, "node-up", number(node))
	healthy(t, databaseVolume(t))
	nothingLost(t)
}

// TestGarbage: whoever reaches the ports of a volume can say nothing that
// disturbs it.
func TestGarbage(t *testing.T) {
	load(t)
	v := databaseVolume(t)
	before := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.epoch} {.status.state}")
	for service, port := range map[string]string{v + "-ctrl": "4420", v + "-rep-r0": "4500"} {
		ip := kubectl(t, "-n", "cask-system", "get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
		for _, say := range []string{
			"head -c 100000 /dev/urandom",
			"head -c 100000 /dev/zero",
			`printf '\0\0\200\0\377\377\377\377'; head -c 200 /dev/zero`, // a length of 4 GiB
			"sleep 2", // nothing at all
		} {
			script := fmt.Sprintf("exec 3<>/dev/tcp/%s/%s; { %s; } >&3 2>/dev/null || true", ip, port, say)
			kubectl(t, "-n", example, "exec", "client", "-c", "ledger", "--", "timeout", "10", "bash", "-c", script)
		}
	}
	progress(t, 30*time.Second, 10)
	nothingLost(t)
	if after := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.epoch} {.status.state}"); after != before {
		t.Errorf("epoch and state are %s, were %s", after, before)
	}
}
