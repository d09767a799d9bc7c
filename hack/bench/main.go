// Command bench measures volumes on this machine, without Kubernetes, through
// our NVMe/TCP host and iSCSI initiator, beside references in the same window: a raw
// file with fio, one behind tgtd where that is installed, and a bare exchange over
// loopback TCP. It passes or fails nothing.
//
//	bench [-bin NAME=DIR]... [-replicas 1,3] [-frontends nvme/tcp,iscsi] [-time 3s] [-rounds 1] [-only REGEXP] [-out DIR]
//
// Every -bin names a directory with cask, cask-target and cask-replica; several
// of them are compared. What is compared takes turns, case by case. All runs
// under -work, which is removed at the end.
//
// # Output
//
// A table on standard output while it runs; in DIR bench.json (an array of Row),
// bench.svg, and for each system a file for benchstat, bench-NAME.txt.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Row is the result of one case on one system. The names in JSON are frozen.
type Row struct {
	System   string  `json:"system"`
	Replicas int     `json:"replicas"`
	Frontend string  `json:"frontend"`
	Op       string  `json:"op"`
	BS       int     `json:"bs"` // bytes
	QD       int     `json:"qd"`
	IOPS     float64 `json:"iops"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	CPU      float64 `json:"cpu_us_per_op"` // of all server processes
	Target   float64 `json:"target_cpu_us_per_op,omitempty"`
	Switches float64 `json:"switches_per_op,omitempty"` // times a thread of a server slept
	Faults   float64 `json:"faults_per_op,omitempty"`   // of pages, of all servers
	RSS      float64 `json:"rss_mb"`                    // of all server processes, at the end of the case
}

// work is one case.
type work struct {
	op     string // read, write: at random; seqread, seqwrite; flush: each write and a flush after it
	bs, qd int
}

func (w work) String() string { return fmt.Sprintf("%s-%dk-qd%d", w.op, w.bs>>10, w.qd) }

// cases in their order: the first one fills the volume.
var cases = []work{
	{"seqwrite", 128 << 10, 8}, {"seqread", 128 << 10, 8},
	{"read", 4 << 10, 1}, {"read", 4 << 10, 32},
	{"write", 4 << 10, 1}, {"write", 4 << 10, 32},
	{"flush", 4 << 10, 1}, {"flush", 4 << 10, 8}, {"flush", 4 << 10, 32},
}

// system is something that can be measured.
type system interface {
	name() string
	run(ctx context.Context, w work) (Row, error)
	close() error
}

type options struct {
	bins     []string
	replicas []int
	fronts   []string
	span     int64  // bytes of the volume and the file
	record   uint64 // size of the volume's records, bytes; 0: the default
	time     time.Duration
	rounds   int
	only     *regexp.Regexp
	out      string
	dir      string
}

func parse() (options, error) {
	var o options
	flag.Func("bin", "NAME=DIR of programs; may be given again (default cask=bin)", func(s string) error {
		if !strings.Contains(s, "=") {
			return errors.New("give NAME=DIR")
		}
		o.bins = append(o.bins, s)
		return nil
	})
	replicas := flag.String("replicas", "1,3", "numbers of replicas")
	fronts := flag.String("frontends", overNVMe+","+overISCSI, "what volumes are reached through")
	only := flag.String("only", "", "cases to measure, a regular expression; the fill is always done")
	span := flag.Int64("span", 1024, "size of the volumes, MiB")
	flag.Uint64Var(&o.record, "record", 0, "size of the volumes' records, bytes (default 8192)")
	flag.DurationVar(&o.time, "time", 3*time.Second, "of each case")
	flag.IntVar(&o.rounds, "rounds", 1, "how often everything is measured")
	flag.StringVar(&o.out, "out", "build", "directory of the results")
	work := flag.String("work", os.TempDir(), "directory for the volumes' data")
	flag.Parse()
	if len(o.bins) == 0 {
		o.bins = []string{"cask=bin"}
	}
	for f := range strings.SplitSeq(*replicas, ",") {
		n, err := strconv.Atoi(f)
		if err != nil {
			return o, fmt.Errorf("-replicas %s: give numbers and commas", *replicas)
		}
		o.replicas = append(o.replicas, n)
	}
	for f := range strings.SplitSeq(*fronts, ",") {
		if f != overNVMe && f != overISCSI {
			return o, fmt.Errorf("-frontends %s: give %s, %s or both with a comma", *fronts, overNVMe, overISCSI)
		}
		o.fronts = append(o.fronts, f)
	}
	o.span = *span << 20
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return o, err
	}
	o.dir, err = os.MkdirTemp(*work, "cask-bench-")
	return o, err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	systems, err := o.systems(ctx)
	var rows []Row
	if err == nil {
		rows, err = o.measure(ctx, systems)
	}
	for _, s := range systems {
		err = errors.Join(err, s.close())
	}
	if err != nil {
		return err
	}
	return o.write(rows)
}

// systems starts all that is measured.
func (o options) systems(ctx context.Context) ([]system, error) {
	raw, err := newRaw(filepath.Join(o.dir, "raw"), o)
	if err != nil {
		return nil, err
	}
	all := []system{loopback{o.time}, raw}
	if slices.Contains(o.fronts, overISCSI) {
		t, err := newTgtd(ctx, filepath.Join(o.dir, "tgtd"), o)
		switch {
		case err == nil:
			all = append(all, t)
		case !errors.Is(err, errNotMeant):
			return all, err
		}
	}
	for _, b := range o.bins {
		name, bin, _ := strings.Cut(b, "=")
		for _, front := range o.fronts {
			for _, n := range o.replicas {
				s, err := newVolume(ctx, volumeOptions{name: name, bin: bin, replicas: n, frontend: front, o: o})
				if s != nil {
					all = append(all, s)
				}
				if err != nil {
					return all, err
				}
			}
		}
	}
	return all, nil
}

// measure runs the cases, the systems taking turns.
func (o options) measure(ctx context.Context, systems []system) ([]Row, error) {
	var rows []Row
	header()
	for round := range o.rounds {
		for i, w := range cases {
			fill := i == 0 && round == 0
			if !fill && !o.only.MatchString(w.String()) {
				continue
			}
			for _, s := range systems {
				r, err := s.run(ctx, w)
				if errors.Is(err, errNotMeant) {
					continue
				}
				if err != nil {
					return rows, fmt.Errorf("%s on %s: %w", w, s.name(), err)
				}
				r.Op, r.BS, r.QD = w.op, w.bs, w.qd
				rows = append(rows, r)
				r.print()
			}
		}
	}
	return rows, nil
}

// errNotMeant is the class of a case that a system does not do.
var errNotMeant = errors.New("not meant for this system")

func (o options) write(rows []Row) error {
	b, err := json.MarshalIndent(rows, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "bench.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.out, "bench.svg"), plot(rows), 0o644); err != nil {
		return err
	}
	return benchstat(o.out, rows)
}
