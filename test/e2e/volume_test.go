//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFileSystems: what is written is there on another node, for ext4, xfs and
// raw block, by either frontend; and with the claim the extents go.
func TestFileSystems(t *testing.T) {
	for name, x := range map[string]struct {
		parameters  map[string]string
		mode, write string
		read        string
	}{
		"ext4":  {map[string]string{"csi.storage.k8s.io/fstype": "ext4"}, "Filesystem", "head -c 9000000 /dev/zero | tr '\\0' x > /data/f; sync -f /data", "md5sum < /data/f"},
		"xfs":   {map[string]string{"csi.storage.k8s.io/fstype": "xfs", "consistency": "all", "frontend": "iscsi"}, "Filesystem", "head -c 9000000 /dev/zero | tr '\\0' x > /data/f; sync -f /data", "md5sum < /data/f"},
		"block": {map[string]string{"replicas": "2", "durability": "always"}, "Block", "head -c 9000000 /dev/zero | tr '\\0' x | dd of=/dev/data bs=1000000 iflag=fullblock conv=fsync", "head -c 9000000 /dev/data | md5sum"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t)
			class(t, ns, x.parameters)
			claim(t, ns, ns, "400Mi", x.mode)
			n := nodes(t)
			pod(t, ns, "one", n[0], x.mode)
			ready(t, ns, "one")
			sh(t, ns, "one", x.write)
			want := sh(t, ns, "one", x.read)
			kubectl(t, "-n", ns, "delete", "pod", "one")
			pod(t, ns, "two", n[1], x.mode)
			ready(t, ns, "two")
			if got := sh(t, ns, "two", x.read); got != want {
				t.Errorf("on the other node %s, not %s", got, want)
			}
			v := volumeOf(t, ns)
			kubectl(t, "-n", ns, "delete", "pod", "two")
			kubectl(t, "-n", ns, "delete", "pvc", "data")
			kubectl(t, "wait", "--for=delete", "volume/"+v, "--timeout=100s")
			for i := range n {
				if out := onNode(t, i+1, "ls", "/var/lib/cask/pool/extents"); strings.Contains(out, v) {
					t.Errorf("%s still has %s", n[i], out)
				}
			}
		})
	}
}

// onNode runs a command on a node of the lab.
func onNode(t *testing.T, i int, args ...string) string {
	t.Helper()
	return lab(t, append([]string{"exec", strconv.Itoa(i)}, args...)...)
}

// proven are the parameters of a volume whose nodes prove themselves.
var proven = map[string]string{
	"authentication": "nodes",
	"csi.storage.k8s.io/node-stage-secret-name": "${pv.name}-auth", "csi.storage.k8s.io/node-stage-secret-namespace": "cask-system",
	"csi.storage.k8s.io/node-publish-secret-name": "${pv.name}-auth", "csi.storage.k8s.io/node-publish-secret-namespace": "cask-system",
}

// written starts a pod with data on a volume of three replicas, by a node that
// has proven itself.
func written(t *testing.T) (ns, volume string) {
	t.Helper()
	return writtenTo(t, proven)
}

func writtenTo(t *testing.T, parameters map[string]string) (ns, volume string) {
	t.Helper()
	ns = namespace(t)
	class(t, ns, parameters)
	claim(t, ns, ns, "400Mi", "Filesystem")
	pod(t, ns, "app", nodes(t)[0], "Filesystem")
	ready(t, ns, "app")
	sh(t, ns, "app", "head -c 20000000 /dev/urandom > /data/f; md5sum < /data/f > /data/sum; sync -f /data")
	return ns, volumeOf(t, ns)
}

func intact(t *testing.T, ns string) {
	t.Helper()
	sh(t, ns, "app", "echo 3 > /proc/sys/vm/drop_caches 2>/dev/null || true; md5sum < /data/f | cmp - /data/sum")
}

func healthy(t *testing.T, v string) {
	t.Helper()
	kubectl(t, "wait", "--for=jsonpath={.status.state}=Healthy", "volume/"+v, "--timeout=100s")
}

// whole waits until a volume has surely got over what was done to it. That it is
// Healthy may have been said before: by a target that was killed since, or of a
// replica whose end nobody has noticed yet. So all its pods have to be ready, too,
// for some seconds on end.
func whole(t *testing.T, v string, within time.Duration) {
	t.Helper()
	times := 0
	eventually(t, within, func() error {
		times++
		state, err := try("", "get", "volume", v, "-o", "jsonpath={.status.state}")
		ready, err2 := try("", "-n", "cask-system", "get", "pods", "-l", "cask.storage/volume="+v,
			"-o", `jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}`)
		if state != "Healthy" || ready == "" || strings.Trim(ready, "True ") != "" {
			times = 0
			return fmt.Errorf("volume %s is %s, its pods are ready: %s (%v)", v, state, ready, errors.Join(err, err2))
		}
		if times < 6 {
			return fmt.Errorf("volume %s has been whole for %d looks only", v, times)
		}
		return nil
	})
}

// TestTargetAndReplicaKilled: each process is killed in the middle of writes;
// the writer sees a stall and no error.
func TestTargetAndReplicaKilled(t *testing.T) {
	ns, v := written(t)
	killed(t, ns, v, "cask.storage/role=target", "cask.storage/replica=r0", "cask.storage/replica=r2")
}

// TestISCSITargetKilled: the same of an iSCSI volume's target.
func TestISCSITargetKilled(t *testing.T) {
	ns, v := writtenTo(t, map[string]string{"frontend": "iscsi"})
	killed(t, ns, v, "cask.storage/role=target")
}

// killed kills pods of a volume, one after the other, while it is written to.
func killed(t *testing.T, ns, v string, selectors ...string) {
	t.Helper()
	healthy(t, v)
	for _, selector := range selectors {
		writer := make(chan error, 1)
		go func() {
			_, err := try("", "-n", ns, "exec", "app", "--", "sh", "-ec", "for i in 1 2 3 4 5 6; do dd if=/dev/urandom of=/data/g bs=1000000 count=10 conv=fsync 2>/dev/null; done")
			writer <- err
		}()
		time.Sleep(time.Second)
		kubectl(t, "-n", "cask-system", "delete", "pod", "-l", "cask.storage/volume="+v+","+selector, "--force", "--grace-period=0")
		if err := <-writer; err != nil {
			t.Fatalf("writer while %s was killed: %v", selector, err)
		}
		intact(t, ns)
		healthy(t, v)
	}
}

// TestNodePluginRestart: mounted volumes do not notice.
func TestNodePluginRestart(t *testing.T) {
	ns, _ := written(t)
	kubectl(t, "-n", "cask-system", "rollout", "restart", "daemonset/cask-csi-node")
	kubectl(t, "-n", "cask-system", "rollout", "status", "daemonset/cask-csi-node", "--timeout=100s")
	intact(t, ns)
	sh(t, ns, "app", "echo more > /data/more; sync -f /data")
}

// TestExtentLost: a replica whose extent is gone or truncated says so, is not
// made anew by itself, and the volume goes on without it.
func TestExtentLost(t *testing.T) {
	for name, x := range map[string]struct {
		command []string
		reason  string
	}{
		"missing":   {[]string{"rm"}, "ExtentMissing"},
		"truncated": {[]string{"truncate", "-s", "1M"}, "ExtentTruncated"},
	} {
		t.Run(name, func(t *testing.T) {
			ns, v := written(t)
			healthy(t, v)
			node := kubectl(t, "get", "volume", v, "-o", `jsonpath={.status.replicas[?(@.id=="r1")].node}`)
			file := "/var/lib/cask/pool/extents/" + v + "-r1.img"
			onNode(t, int(node[len(node)-1]-'0'), append(x.command, file)...)
			kubectl(t, "-n", "cask-system", "delete", "pod", "-l", "cask.storage/volume="+v+",cask.storage/replica=r1", "--force", "--grace-period=0")
			says(t, 90*time.Second, []string{"Failed", x.reason}, "get", "volume", v, "-o", `jsonpath={.status.replicas[?(@.id=="r1")]}`)
			sh(t, ns, "app", "echo more > /data/more; sync -f /data")
			intact(t, ns)
		})
	}
}
