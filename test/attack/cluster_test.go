package attack

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

const (
	volumeName  = "attacked"
	nvmePort    = 4420
	healthPort  = 8080
	replicaPort = 4500
	replicas    = 3
)

// shape is what a volume under attack is made of.
type shape struct {
	size  uint64
	level quorum.Level
	// small gives each replica a file system of its own, in memory, that can be
	// filled.
	small bool
}

// cluster is a volume: replicas r0… and a target that is t0 or t1.
type cluster struct {
	t       *testing.T
	dir     string
	shape   shape
	lan     *lan
	targets [2]*process
	rs      [replicas]*process
	record  target.FileAuthority
	web     http.Client

	mu     sync.Mutex
	active int // index of the newest target
}

// programs is where make build puts them.
func programs(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(*bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{"cask-target", "cask-replica"} {
		if _, err := os.Stat(filepath.Join(dir, b)); err != nil {
			t.Skipf("%s is not built; run make build first", b)
		}
	}
	return dir
}

func newCluster(t *testing.T, s shape) *cluster {
	t.Helper()
	exe := programs(t)
	dir, err := os.MkdirTemp(workDir(), "volume-")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: dir, shape: s, record: target.FileAuthority{Path: filepath.Join(dir, "record.json")}}
	c.lan = newLAN(t, "h0", "h1", "t0", "t1", "r0", "r1", "r2", "watch")
	c.web = http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: c.dialer("watch")}}
	var rec volume.Record
	for i := range c.rs {
		rec.Voters = append(rec.Voters, quorum.ReplicaID(replicaID(i)))
		c.rs[i] = c.newReplica(exe, i)
	}
	if err := c.record.CreateRecord(rec); err != nil {
		t.Fatal(err)
	}
	for i := range c.targets {
		c.targets[i] = c.newTarget(exe, i)
	}
	c.run()
	return c
}

func replicaID(i int) string { return fmt.Sprintf("r%d", i) }

func (c *cluster) newReplica(exe string, i int) *process {
	id := replicaID(i)
	pool := filepath.Join(c.dir, id)
	if err := os.MkdirAll(pool, 0o700); err != nil {
		c.t.Fatal(err)
	}
	if c.shape.small {
		size := replica.ExtentSize(c.shape.size)
		size += size/8 + 16<<20 // the IO container's reserve
		if err := unix.Mount("tmpfs", pool, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
			c.t.Fatalf("mount %s: %v", pool, err)
		}
		c.t.Cleanup(func() {
			if err := unix.Unmount(pool, unix.MNT_DETACH); err != nil {
				c.t.Error(err)
			}
		})
	}
	return newProcess(c.lan.node(id), c.dir+"/"+id+".log", filepath.Join(exe, "cask-replica"), "--volume="+volumeName, "--replica="+id,
		fmt.Sprintf("--listen=:%d", replicaPort), "--pool-dir="+pool)
}

func (c *cluster) newTarget(exe string, i int) *process {
	n := c.lan.node(fmt.Sprintf("t%d", i))
	args := []string{filepath.Join(exe, "cask-target"), "--volume=" + volumeName, "--authority=file:" + c.record.Path,
		"--level=" + string(c.shape.level), fmt.Sprintf("--min-voters=%d", *minVoters), "--size=" + strconv.FormatUint(c.shape.size, 10),
		fmt.Sprintf("--listen=:%d", nvmePort), fmt.Sprintf("--health=:%d", healthPort)}
	for i := range c.rs {
		id := replicaID(i)
		args = append(args, "--replica="+id+"="+c.lan.node(id).addr(replicaPort))
		if c.shape.level == quorum.Local || c.shape.level == quorum.Each {
			args = append(args, fmt.Sprintf("--replica-zone=%s=z%d", id, i%2), "--zone=z0")
		}
	}
	return newProcess(n, c.dir+"/"+n.name+".log", args...)
}

// run starts everything, and ends it when the test does.
func (c *cluster) run() {
	var wg sync.WaitGroup
	done := make(chan struct{})
	for _, p := range c.processes() {
		wg.Go(func() { p.keep(done) }) // ends with done, when the process is killed
	}
	c.t.Cleanup(func() {
		if c.t.Failed() || *measure && *logs != "" {
			c.saveLogs()
		}
		for _, p := range c.processes() {
			p.signal(syscall.SIGCONT)
			p.kill()
		}
		close(done)
		wg.Wait()
	})
	for _, p := range c.rs {
		p.start()
	}
	c.targets[0].start()
	c.allInSync(time.Minute)
}

func (c *cluster) processes() []*process { return append(c.rs[:], c.targets[:]...) }

// current is the index of the newest target.
func (c *cluster) current() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active
}

func (c *cluster) setCurrent(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active = i
}

// dialer dials from a node.
func (c *cluster) dialer(name string) func(context.Context, string, string) (net.Conn, error) {
	n := c.lan.node(name)
	return func(ctx context.Context, _, addr string) (net.Conn, error) { return n.dial(ctx, addr) }
}

// inSync counts the replicas in sync.
func (c *cluster) inSync() int { return c.metric("cask_replica_in_sync{") }

// metric counts the replicas of which a metric is 1, -1 when the target does
// not say.
func (c *cluster) metric(prefix string) int {
	resp, err := c.web.Get("http://" + c.targets[c.current()].node.addr(healthPort) + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return -1
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, prefix) && strings.HasSuffix(line, " 1\n") {
			n++
		}
	}
	return n
}

func (c *cluster) allInSync(within time.Duration) time.Duration {
	c.t.Helper()
	return eventually(c.t, within, "not every replica is in sync and votes", func() bool {
		return c.inSync() == replicas && c.metric("cask_replica_voter{") == replicas
	})
}

// saveLogs keeps what explains a failure.
func (c *cluster) saveLogs() {
	if *logs == "" {
		c.t.Log("give -logs DIR to keep the processes' logs of a failure")
		return
	}
	if err := os.MkdirAll(*logs, 0o755); err != nil {
		c.t.Error(err)
	}
	for _, p := range c.processes() {
		b, err := os.ReadFile(p.log)
		if err == nil {
			err = os.WriteFile(filepath.Join(*logs, p.name+".log"), b, 0o644)
		}
		if err != nil {
			c.t.Log(err)
		}
	}
	c.t.Logf("logs of the processes are in %s", *logs)
}
