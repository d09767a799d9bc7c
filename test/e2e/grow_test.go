//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cask runs the plugin as make build leaves it.
func cask(args ...string) (string, error) {
	cmd := exec.Command("timeout", append([]string{"120", "../../bin/cask"}, args...)...)
	cmd.Env = os.Environ()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestGrows: a claim that asks for more gets it while a pod writes: the file system
// is larger, and nothing is lost. Less is refused. Afterwards the replicas are the
// same, and say so when asked.
func TestGrows(t *testing.T) {
	ns := namespace(t)
	// xfs: to grow ext4 the kernel asks for CAP_SYS_RESOURCE, which this lab has not.
	class(t, ns, map[string]string{"csi.storage.k8s.io/fstype": "xfs"})
	claim(t, ns, ns, "400Mi", "Filesystem")
	pod(t, ns, "app", nodes(t)[0], "Filesystem")
	ready(t, ns, "app")
	v := volumeOf(t, ns)
	sh(t, ns, "app", "head -c 20000000 /dev/urandom > /data/f; md5sum < /data/f > /data/sum; sync -f /data")
	before := room(t, ns)
	healthy(t, v)

	writer := make(chan error, 1)
	go func() {
		_, err := try("", "-n", ns, "exec", "app", "--", "sh", "-ec",
			`i=0; until [ -e /data/stop ]; do i=$((i+1)); head -c 1000000 /dev/urandom > /data/g; sync /data/g; md5sum < /data/g > /data/g.sum; done; echo $i > /data/rounds`)
		writer <- err
	}()
	start := time.Now()
	request(t, ns, "700Mi")
	eventually(t, 60*time.Second, func() error {
		if out := kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.status.capacity.storage}"); out != "700Mi" {
			return fmt.Errorf("the claim has %s: %s", out, kubectl(t, "-n", ns, "get", "pvc", "data", "-o", "jsonpath={.status.conditions}"))
		}
		return nil
	})
	after := room(t, ns)
	t.Logf("400Mi became 700Mi in %v, %d bytes of the file system %d", time.Since(start).Round(100*time.Millisecond), before, after)
	if after-before < 290<<20 {
		t.Errorf("the file system has %d bytes, had %d", after, before)
	}
	status(t, time.Second, v, `{.status.size}{.status.conditions[?(@.type=="Resized")].status}`, "700MiTrue")
	// More than fitted before; its end is written.
	sh(t, ns, "app", "fallocate -l 500000000 /data/large; tail -c 4000000 /data/f | dd of=/data/large bs=1000000 seek=496 conv=notrunc; touch /data/stop; sync -f /data")
	if err := <-writer; err != nil {
		t.Errorf("writes meanwhile: %v", err)
	}
	intact(t, ns)
	sh(t, ns, "app", "md5sum < /data/g | cmp - /data/g.sum; [ $(cat /data/rounds) -gt 1 ]; tail -c 4000000 /data/f > /tmp/end; tail -c 4000000 /data/large | cmp - /tmp/end")

	for what, args := range map[string][]string{
		"can grow, not shrink": {"patch", "volume", v, "--type=merge", "-p", `{"spec":{"size":"400Mi"}}`},
		"less than":            {"-n", ns, "patch", "pvc", "data", "--type=merge", "-p", `{"spec":{"resources":{"requests":{"storage":"400Mi"}}}}`},
	} {
		if out, err := try("", args...); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("a smaller one: %s %v, want %q", out, err, what)
		}
	}
	healthy(t, v)
	verified(t, ns, v)
}

// request asks for another size of the claim data.
func request(t *testing.T, ns, size string) {
	t.Helper()
	kubectl(t, "-n", ns, "patch", "pvc", "data", "--type=merge", "-p", `{"spec":{"resources":{"requests":{"storage":"`+size+`"}}}}`)
}

// room is how large the file system at /data is.
func room(t *testing.T, ns string) int64 {
	t.Helper()
	return number64(t, strings.TrimSpace(sh(t, ns, "app", "df -B1 --output=size /data | tail -1")))
}

// verified has the replicas compared, which are the same.
func verified(t *testing.T, ns, v string) {
	t.Helper()
	start := time.Now()
	out, err := cask("verify", ns+"/data")
	if err != nil || !strings.Contains(out, "3 replicas are the same") {
		t.Fatalf("verify: %v\n%s", err, out)
	}
	t.Logf("in %v: %s", time.Since(start).Round(100*time.Millisecond), strings.TrimSpace(out))
	status(t, time.Second, v, `{.status.conditions[?(@.type=="Identical")].status}{.status.verification.replicas}{.status.verification.comparedBytes}`, `True["r0","r1","r2"]0`)
	held := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.verification.heldBytes}")
	read := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.verification.readBytes}")
	if h, r := number64(t, held), number64(t, read); h < 3*20e6 || r == 0 || r > h/10 {
		t.Errorf("%d bytes held, %d read", h, r)
	}
	if asked := kubectl(t, "get", "volume", v, "-o", `jsonpath={.metadata.annotations.cask\.storage/verify}`); asked == "" ||
		asked != kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.verification.request}") {
		t.Errorf("%q was asked for, and is not what was answered", asked)
	}
}

func number64(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
