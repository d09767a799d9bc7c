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
	"time"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/internal/slack"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

type options struct {
	volume, authority string
	level             string
	minVoters         int
	zone              string // of this target
	durability        string
	verifyEvery       time.Duration
	size              uint64
	replicas, zones   map[quorum.ReplicaID]string
	frontend          string
	addr, health      string // of the frontend and of the probes
	auth              string // folder of secrets
}

func parse() options {
	o := options{replicas: map[quorum.ReplicaID]string{}, zones: map[quorum.ReplicaID]string{}}
	flag.StringVar(&o.volume, "volume", "", "name of the volume")
	flag.StringVar(&o.authority, "authority", "", "who keeps the volume's record: kube, or file:PATH")
	flag.StringVar(&o.durability, "durability", "flush", "when a write is stable: flush or always")
	flag.Uint64Var(&o.size, "size", 0, "bytes that the volume is to have; it grows to that (only with --authority=file)")
	o.layoutFlags()
	flag.Func("frontend", "what hosts speak: nvme (NVMe/TCP, the default) or iscsi", o.setFrontend)
	flag.StringVar(&o.addr, "listen", "", "address of the frontend (default :4420 for nvme, :3260 for iscsi)")
	flag.StringVar(&o.auth, "auth", "", "folder with what hosts have to prove, see the README; nothing when empty")
	flag.DurationVar(&o.verifyEvery, "verify-every", 7*24*time.Hour, "compare the replicas, by their block pointers, this long after the last time; 0: only when asked to")
	flag.StringVar(&o.health, "health", "", "address of /healthz, /readyz and /metrics; none when empty")
	flag.Parse()
	o.frontend = cmp.Or(o.frontend, "nvme")
	if o.volume == "" || o.authority == "" || (o.size == 0 || len(o.replicas) == 0) && o.authority != "kube" {
		fmt.Fprintln(os.Stderr, "cask-target: give --volume, --authority and, unless the Volume says them, --size and at least one --replica")
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

// layoutFlags are for a target without a Volume object to follow.
func (o *options) layoutFlags() {
	pair := func(into map[quorum.ReplicaID]string, want string) func(string) error {
		return func(s string) error {
			id, value, ok := strings.Cut(s, "=")
			if !ok || id == "" || value == "" {
				return fmt.Errorf("want %s", want)
			}
			into[quorum.ReplicaID(id)] = value
			return nil
		}
	}
	const only = " (only with --authority=file)"
	flag.StringVar(&o.level, "level", "quorum", "consistency level: one, quorum, all, local or each"+only)
	flag.IntVar(&o.minVoters, "min-voters", 0, "the fewest replicas that failed ones may leave; 0: more than half"+only)
	flag.StringVar(&o.zone, "zone", "", "zone of this target, for the level local"+only)
	flag.Func("replica", "ID=HOST:PORT of a replica; repeat"+only, pair(o.replicas, "ID=HOST:PORT"))
	flag.Func("replica-zone", "ID=ZONE of a replica, for the levels local and each; repeat"+only, pair(o.zones, "ID=ZONE"))
}

// settings are those of the flags.
func (o options) settings() target.Settings {
	return target.Settings{Addresses: o.replicas, Size: o.size, Layout: volume.Layout{Level: quorum.Level(o.level), MinVoters: o.minVoters,
		Replicas: slices.Sorted(maps.Keys(o.replicas)), Zones: o.zones, Zone: o.zone}}
}

func main() {
	slack.Set(slack.Go)
	log.SetFlags(log.LstdFlags | log.Lmicroseconds)
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go procs.Fit(ctx, procs.CPU) // ends with ctx, or with the process
	if err := run(ctx, o); err != nil {
		log.Printf("target of volume %s ends: %v", o.volume, err)
		os.Exit(1)
	}
}
