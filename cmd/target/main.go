// Command cask-target serves one volume: it orders its operations, replicates
// them and speaks NVMe/TCP or iSCSI.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/cask-storage/cask/pkg/quorum"
)

type options struct {
	volume, authority string
	level             string
	durability        string
	size              uint64
	replicas          map[quorum.ReplicaID]string
	frontend          string
	addr, health      string // of the frontend and of the probes
}

func parse() options {
	o := options{replicas: map[quorum.ReplicaID]string{}}
	flag.StringVar(&o.volume, "volume", "", "name of the volume")
	flag.StringVar(&o.authority, "authority", "", "who keeps the volume's record: kube, or file:PATH")
	flag.StringVar(&o.level, "level", "quorum", "consistency level: quorum or all")
	flag.StringVar(&o.durability, "durability", "flush", "when a write is stable: flush or always")
	flag.Uint64Var(&o.size, "size", 0, "bytes of the volume")
	flag.Func("replica", "ID=HOST:PORT of a replica; repeat", func(s string) error {
		id, addr, ok := strings.Cut(s, "=")
		if !ok || id == "" || addr == "" {
			return fmt.Errorf("want ID=HOST:PORT")
		}
		o.replicas[quorum.ReplicaID(id)] = addr
		return nil
	})
	flag.Func("frontend", "what hosts speak: nvme (NVMe/TCP, the default) or iscsi", o.setFrontend)
	flag.StringVar(&o.addr, "listen", "", "address of the frontend (default :4420 for nvme, :3260 for iscsi)")
	flag.StringVar(&o.health, "health", "", "address of /healthz, /readyz and /metrics; none when empty")
	flag.Parse()
	o.frontend = cmp.Or(o.frontend, "nvme")
	if o.volume == "" || o.authority == "" || o.size == 0 || len(o.replicas) == 0 {
		fmt.Fprintln(os.Stderr, "cask-target: give --volume, --authority, --size and at least one --replica")
		os.Exit(2)
	}
	return o
}

// setFrontend takes one frontend: two would each have reservations that the
// other's hosts do not keep.
func (o *options) setFrontend(s string) error {
	if o.frontend != "" {
		return fmt.Errorf("a target has one frontend, this one has %s already", o.frontend)
	}
	if _, ok := frontends[s]; !ok {
		return fmt.Errorf("neither nvme nor iscsi")
	}
	o.frontend = s
	return nil
}

func (o options) ids() []quorum.ReplicaID { return slices.Sorted(maps.Keys(o.replicas)) }

func main() {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Printf("target of volume %s ends: %v", o.volume, err)
		os.Exit(1)
	}
}
