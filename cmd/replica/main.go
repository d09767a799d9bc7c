// Command cask-replica keeps one copy of one volume on an extent.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/internal/slack"
	"github.com/cask-storage/cask/pkg/ioc"
	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

type options struct {
	replica.Identity
	listen, health string
	socket, dir    string
	parent         string
	memory         uint64
	compression    string
	blockSize      uint
	io             dmu.IO
	scrub          time.Duration
}

func parse() options {
	var o options
	flag.StringVar(&o.Volume, "volume", "", "name of the volume")
	flag.StringVar(&o.Replica, "replica", "", "ID of the replica within the volume")
	flag.StringVar(&o.listen, "listen", ":4500", "address for targets")
	flag.StringVar(&o.health, "health", "", "address of /healthz, /readyz; none when empty")
	flag.StringVar(&o.socket, "ioc", "", "socket of the IO container; when empty the pool directory is used directly")
	flag.StringVar(&o.dir, "pool-dir", "", "pool directory, as seen by this process")
	flag.StringVar(&o.parent, "zvol", "", "pool/dataset of the node's ZFS below which the volume is kept, instead of in an extent")
	flag.Uint64Var(&o.memory, "memory", dmu.DefaultMemory, "bytes this process may take")
	flag.StringVar(&o.compression, "compression", "lz4", "lz4, zstd or off, of a volume made now")
	flag.UintVar(&o.blockSize, "block-size", dmu.DefaultBlockSize, "record size in bytes, a power of two, of a volume made now")
	flag.TextVar(&o.io, "io-engine", dmu.IOAuto, "auto (io_uring where the kernel and seccomp allow it), io_uring or threads")
	flag.DurationVar(&o.scrub, "scrub-every", 30*24*time.Hour, "how long after a scrub the next one begins; 0: none, and one under way is paused")
	flag.Parse()
	if o.Volume == "" || o.Replica == "" || o.dir == "" && o.parent == "" {
		fmt.Fprintln(os.Stderr, "cask-replica: give --volume, --replica and --pool-dir, or --zvol")
		os.Exit(2)
	}
	return o
}

func main() {
	slack.Set(slack.Cgo)
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Printf("replica %s of volume %s ends: %v", o.Replica, o.Volume, err)
		os.Exit(1)
	}
}

// gcPercent: Go's heap is mostly the tail of operations, which costs nothing to
// look through; at the default it would grow to twice the tail.
const gcPercent = 20

func run(ctx context.Context, o options) error {
	debug.SetGCPercent(gcPercent)
	c, err := o.config(ctx)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen for targets: %w", err)
	}
	s := replica.NewServer(c)
	go procs.Fit(ctx, procs.Held, procs.CPU) // ends with ctx, or with the process
	if o.health == "" {
		return s.Serve(ctx, l)
	}
	h, err := net.Listen("tcp", o.health)
	if err != nil {
		return fmt.Errorf("listen for probes: %w", err)
	}
	web := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() { // ends with web.Close, below
		defer close(done)
		if err := web.Serve(h); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("probes: %v", err)
		}
	}()
	err = s.Serve(ctx, l)
	web.Close()
	<-done
	return err
}

// config is the replica's, with what keeps its volume.
func (o options) config(ctx context.Context) (replica.Config, error) {
	c := replica.Config{Identity: o.Identity, Scrub: replica.ScrubConfig{Every: o.scrub}, Logf: log.Printf}
	if o.dir != "" {
		c.Turns = ioc.Turns{Dir: o.dir}
	}
	if o.parent != "" {
		c.Backing = o.zvols(ctx)
		return c, nil
	}
	engine, err := o.engine(ctx)
	if err != nil {
		return c, err
	}
	extent := o.backing(ctx, engine)
	c.Backing, c.Grow = extent, extent.Grow
	return c, nil
}

// engine is the IO container, or the pool directory itself.
func (o options) engine(ctx context.Context) (ioc.Engine, error) {
	if o.socket != "" {
		return ioc.Client{Socket: o.socket}, nil
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	return ioc.OpenFile(ctx, ioc.FileConfig{Dir: dir, Pool: "local", Node: "local", FirstUse: true, Limits: ioc.DefaultLimits})
}

func (o options) backing(ctx context.Context, e ioc.Engine) replica.Extents {
	d := dmu.Options{Memory: o.memory, Compression: o.compression, BlockSize: uint32(o.blockSize), IO: o.io}
	return replica.Extents{
		Ctx: ctx, Engine: e, Dir: o.dir, Name: replica.ExtentName(o.Identity), Logf: log.Printf,
		OpenStore: func(path string) (store.Store, error) {
			d.Path = path
			return logged(dmu.Open(d))
		},
		CreateStore: func(path string, size uint64) (store.Store, error) {
			d.Path, d.Size = path, size
			return logged(dmu.Create(d))
		},
	}
}

// logged says how the extent is read and written.
func logged(s *dmu.Store, err error) (store.Store, error) {
	if err != nil {
		return nil, err
	}
	log.Printf("extent: %s", s.Describe())
	return s, nil
}
