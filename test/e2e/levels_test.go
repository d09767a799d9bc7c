//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// patch changes the spec of a Volume.
func patch(t *testing.T, v, spec string) {
	t.Helper()
	kubectl(t, "patch", "volume", v, "--type=merge", "-p", `{"spec":`+spec+`}`)
}

// restored gives a Volume the settings of a default class back.
func restored(t *testing.T, v string) {
	t.Helper()
	t.Cleanup(func() {
		if _, err := try("", "patch", "volume", v, "--type=merge", "-p",
			`{"spec":{"replicas":3,"consistency":"quorum","zones":null,"minVoters":null,"replaceAfter":null}}`); err != nil {
			t.Error(err)
		}
	})
}

// status waits until fields of a Volume's status read as wanted, and returns
// how long that took.
func status(t *testing.T, within time.Duration, v, fields, want string) time.Duration {
	t.Helper()
	start := time.Now()
	eventually(t, within, func() error {
		if got, err := try("", "get", "volume", v, "-o", "jsonpath="+fields); err != nil || got != want {
			return fmt.Errorf("%s is %q, not %q (%w)", fields, got, want, err)
		}
		return nil
	})
	return time.Since(start).Round(100 * time.Millisecond)
}

const (
	settled = `{.status.conditions[?(@.type=="Settled")].status}`
	entries = `{.status.replicas[*].id}`
)

// idle is a node that neither the database nor its client is on.
func idle(t *testing.T) string {
	t.Helper()
	busy := []string{databaseNode(t), kubectl(t, "-n", example, "get", "pod", "client", "-o", "jsonpath={.spec.nodeName}")}
	return slices.DeleteFunc(nodes(t), func(n string) bool { return slices.Contains(busy, n) })[0]
}

// extents counts the files of a volume's extents on all nodes.
func extents(t *testing.T, v string) (n int) {
	t.Helper()
	for i := range nodes(t) {
		for _, file := range strings.Fields(onNode(t, i+1, "ls", "/var/lib/cask/pool/extents")) {
			if strings.HasPrefix(file, v+"-") && strings.HasSuffix(file, ".img") {
				n++
			}
		}
	}
	return n
}

// TestReplicasOnline takes a replica away from the database and gives it one
// more: no commit is lost, and nothing of the first one stays.
func TestReplicasOnline(t *testing.T) {
	load(t)
	v := databaseVolume(t)
	restored(t, v)
	patch(t, v, `{"replicas":3}`)
	status(t, 100*time.Second, v, settled+`{.status.voting}`, "True3/3")
	epoch := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.epoch}")
	before := strings.Fields(kubectl(t, "get", "volume", v, "-o", "jsonpath="+entries))
	files := extents(t, v)
	patch(t, v, `{"replicas":2}`)
	t.Logf("a replica less after %v", status(t, 100*time.Second, v, settled+`{.status.voting}`, "True2/2"))
	eventually(t, 100*time.Second, func() error {
		now := strings.Fields(kubectl(t, "get", "volume", v, "-o", "jsonpath="+entries))
		if len(now) != 2 {
			return fmt.Errorf("replicas %v", now)
		}
		return nil
	})
	if left := extents(t, v); left != files-1 {
		t.Errorf("%d extents are left of %d", left, files)
	}
	progress(t, 30*time.Second, 10)
	patch(t, v, `{"replicas":3}`)
	t.Logf("a replica more after %v", status(t, 100*time.Second, v, settled+`{.status.voting}`, "True3/3"))
	after := strings.Fields(kubectl(t, "get", "volume", v, "-o", "jsonpath="+entries))
	if newest := after[len(after)-1]; len(after) != 3 || slices.Contains(before, newest) {
		t.Errorf("replicas %v, were %v", after, before)
	}
	progress(t, 30*time.Second, 10)
	nothingLost(t)
	if now := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.epoch}"); now != epoch {
		t.Errorf("epoch %s, was %s: the target was started anew", now, epoch)
	}
}

// TestLevelsOnline goes through the levels under the database.
func TestLevelsOnline(t *testing.T) {
	load(t)
	v := databaseVolume(t)
	restored(t, v)
	for _, x := range []struct{ spec, level string }{
		{`{"consistency":"all","zones":null}`, "all"},
		{`{"consistency":"one","zones":null}`, "one"},
		{`{"consistency":"quorum","zones":"each"}`, "each"},
		{`{"consistency":"quorum","zones":"local"}`, "local"},
		{`{"consistency":"quorum","zones":null}`, "quorum"},
	} {
		patch(t, v, x.spec)
		took := status(t, 60*time.Second, v, settled+`{.status.level}`, "True"+x.level)
		progress(t, 30*time.Second, 10)
		zones := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.voterZones} local {.status.localZone} target {.status.target.zone} exposed {.status.exposed}")
		t.Logf("%s after %v; zones %s", x.level, took, zones)
	}
	nothingLost(t)
	if out, err := try("", "patch", "volume", v, "--type=merge", "-p", `{"spec":{"consistency":"all","zones":"each"}}`); err == nil || !strings.Contains(err.Error(), "zones are for consistency quorum") {
		t.Errorf("all with zones: %v %s", err, out)
	}
}

// TestAllGoesOnWithoutANode: at the level all a replica whose node dies is
// removed, and votes again when the node is back.
func TestAllGoesOnWithoutANode(t *testing.T) {
	load(t)
	v := databaseVolume(t)
	restored(t, v)
	patch(t, v, `{"replicas":3,"consistency":"all","minVoters":1}`)
	status(t, 100*time.Second, v, settled+`{.status.level}{.status.voting}`, "Trueall3/3")
	node := idle(t)
	lab(t, "node-kill", number(node))
	t.Cleanup(func() { lab(t, "revive") })
	start := time.Now()
	progress(t, 60*time.Second, 20)
	t.Logf("20 more commits %v after %s was killed", time.Since(start).Round(100*time.Millisecond), node)
	status(t, 60*time.Second, v, `{.status.level}{.status.voting}`, "all2/2")
	lab(t, "node-up", number(node))
	t.Logf("votes again %v after the node is back", status(t, 200*time.Second, v, settled+`{.status.voting}`, "True3/3"))
	progress(t, 30*time.Second, 10)
	nothingLost(t)
}

// TestZonesEach: a volume with a replica in each zone says where its voters are,
// and goes on with its level when a zone is lost.
func TestZonesEach(t *testing.T) {
	ns := namespace(t)
	class(t, ns, map[string]string{"zones": "each", "minVoters": "2"})
	claim(t, ns, ns, "400Mi", "Filesystem")
	n := nodes(t)
	pod(t, ns, "app", n[0], "Filesystem")
	ready(t, ns, "app")
	v := volumeOf(t, ns)
	status(t, 60*time.Second, v, settled+`{.status.level}{.status.voting}`, "Trueeach3/3")
	for _, node := range n {
		zone := kubectl(t, "get", "node", node, "-o", `jsonpath={.metadata.labels.topology\.kubernetes\.io/zone}`)
		if got := kubectl(t, "get", "volume", v, "-o", `jsonpath={.status.replicas[?(@.node=="`+node+`")].zone}`); got != zone || zone == "" {
			t.Errorf("the replica on %s is in zone %q, the node in %q", node, got, zone)
		}
	}
	sh(t, ns, "app", "head -c 20000000 /dev/urandom > /data/f; md5sum < /data/f > /data/sum; sync -f /data")
	lost := kubectl(t, "get", "volume", v, "-o", `jsonpath={.status.replicas[?(@.node=="`+n[2]+`")].id}`)
	kubectl(t, "cordon", n[2])
	t.Cleanup(func() { kubectl(t, "uncordon", n[2]) })
	kubectl(t, "-n", "cask-system", "delete", "pod", "-l", "cask.storage/volume="+v+",cask.storage/replica="+lost, "--force", "--grace-period=0")
	sh(t, ns, "app", "head -c 20000000 /dev/urandom > /data/g; sync -f /data; md5sum < /data/f | cmp - /data/sum")
}

// TestReplaced: a replica whose node is lost for longer than declared is made
// anew on another node; when the old one returns its extent goes.
func TestReplaced(t *testing.T) {
	ns := namespace(t)
	class(t, ns, map[string]string{"replicas": "2", "minVoters": "1", "replaceAfter": "15s"})
	claim(t, ns, ns, "400Mi", "Filesystem")
	n := nodes(t)
	pod(t, ns, "app", n[0], "Filesystem")
	ready(t, ns, "app")
	v := volumeOf(t, ns)
	status(t, 60*time.Second, v, settled+`{.status.voting}`, "True2/2")
	sh(t, ns, "app", "head -c 20000000 /dev/urandom > /data/f; md5sum < /data/f > /data/sum; sync -f /data")
	on := strings.Fields(kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.replicas[*].node}"))
	lost := slices.DeleteFunc(on, func(node string) bool { return node == n[0] })[0]
	lab(t, "node-kill", number(lost))
	t.Cleanup(func() { lab(t, "revive") })
	start := time.Now()
	eventually(t, 200*time.Second, func() error {
		out := kubectl(t, "get", "volume", v, "-o", `jsonpath={.status.voters} {.status.voting}`)
		if out != `["r0","r2"] 2/2` && out != `["r1","r2"] 2/2` {
			return fmt.Errorf("voters %s", out)
		}
		return nil
	})
	t.Logf("replaced %v after %s was killed", time.Since(start).Round(time.Second), lost)
	sh(t, ns, "app", "head -c 9000000 /dev/urandom > /data/g; sync -f /data; md5sum < /data/f | cmp - /data/sum")
	lab(t, "node-up", number(lost))
	eventually(t, 200*time.Second, func() error {
		if now := strings.Fields(kubectl(t, "get", "volume", v, "-o", "jsonpath="+entries)); len(now) != 2 {
			return fmt.Errorf("replicas %v", now)
		}
		return nil
	})
	if n := extents(t, v); n != 2 {
		t.Errorf("%d extents", n)
	}
}

// editedByHand edits the voters under a target, which says so and goes on, and puts
// them back as it says; then the whole status.
func editedByHand(t *testing.T, ns, v string) {
	t.Helper()
	const recorded = `{.status.conditions[?(@.type=="Recorded")].status}`
	kubectl(t, "patch", "volume", v, "--subresource=status", "--type=merge", "-p", `{"status":{"voters":["r0"]}}`)
	t.Logf("told %v after the edit", status(t, 20*time.Second, v, recorded, "False"))
	says(t, 20*time.Second, []string{"EditedByHand", "status.voters"}, "get", "events", "--field-selector", "involvedObject.name="+v)
	sh(t, ns, "app", "echo on > /data/on; sync -f /data")
	message := kubectl(t, "get", "volume", v, "-o", `jsonpath={.status.conditions[?(@.type=="Recorded")].message}`)
	_, command, _ := strings.Cut(message, "put it back: kubectl ")
	args, patch, found := strings.Cut(command, " -p '")
	if !found {
		t.Fatalf("no command in %q", message)
	}
	kubectl(t, append(strings.Fields(args), "-p", strings.TrimSuffix(patch, "'"))...)
	const right = `True["r0","r1","r2"]Healthy`
	status(t, 20*time.Second, v, recorded+"{.status.refused}{.status.voters}{.status.state}", right)

	whole := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status}")
	edit := func(to string) {
		t.Helper()
		kubectl(t, "patch", "volume", v, "--subresource=status", "--type=merge", "-p", `{"status":`+to+`}`)
	}
	edit("null")
	status(t, 20*time.Second, v, recorded+`{.status.conditions[?(@.type=="Placed")].reason}{.status.voters}`, "FalsePlacementLost")
	sh(t, ns, "app", "echo still > /data/on; sync -f /data")
	edit(strings.TrimSuffix(whole, "}") + `,"refused":null}`)
	status(t, 20*time.Second, v, recorded+"{.status.refused}{.status.voters}{.status.state}", right)
}

// TestOldBackup: a Volume's status that is edited by hand, or from an old backup, is
// refused by every later target until a person has put the newest back.
func TestOldBackup(t *testing.T) {
	ns, v := written(t)
	healthy(t, v)
	editedByHand(t, ns, v)
	for range 2 { // some epochs
		kubectl(t, "-n", "cask-system", "delete", "pod", "-l", "cask.storage/volume="+v+",cask.storage/role=target", "--force", "--grace-period=0")
		time.Sleep(time.Second)
		healthy(t, v)
	}
	refused := func(patch, why string) {
		t.Helper()
		kubectl(t, "patch", "volume", v, "--subresource=status", "--type=merge", "-p", patch)
		status(t, 20*time.Second, v, `{.status.conditions[?(@.type=="Recorded")].status}`, "False")
		kubectl(t, "-n", "cask-system", "delete", "pod", "-l", "cask.storage/volume="+v+",cask.storage/role=target") // waits: until it is gone, the target marks the record again
		says(t, 60*time.Second, []string{"RecordRefused", why}, "get", "volume", v, "-o", `jsonpath={.status.conditions[?(@.type=="Serving")]}`)
	}
	refused(`{"status":{"epoch":1,"holder":"long ago"}}`, "status.epoch, status.holder")
	refused(`{"status":{"refused":null}}`, "old backup") // the mark alone is gone: replicas know better
	epoch := kubectl(t, "get", "volume", v, "-o", "jsonpath={.status.epoch}")
	time.Sleep(10 * time.Second)
	status(t, time.Second, v, "{.status.epoch}", epoch)
	kubectl(t, "patch", "volume", v, "--subresource=status", "--type=merge", "-p", `{"status":{"epoch":100,"refused":null}}`)
	kubectl(t, "-n", "cask-system", "delete", "pod", "-l", "cask.storage/volume="+v+",cask.storage/role=target", "--force", "--grace-period=0")
	healthy(t, v)
	intact(t, ns)
}
