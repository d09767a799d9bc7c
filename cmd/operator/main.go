// Command cask-operator turns StoragePools and Volumes into pods, Services and
// placement, and takes failed nodes out of service. It is never on the I/O path:
// while it is away, volumes go on.
package main

// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=cask-system,resources=leases,verbs=get;create;update

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/resource"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cask-storage/cask/controllers"
)

type options struct {
	settings         controllers.Settings
	metrics, health  string
	leaderElection   bool
	nodeFailureGrace time.Duration
	verbose          bool
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if err != nil {
		os.Exit(2)
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	if err := run(o); err != nil {
		slog.Error("cask-operator ends", "error", err)
		os.Exit(1)
	}
}

// parse reads the flags; what is wrong with them has been printed.
func parse(args []string, out io.Writer) (options, error) {
	o := options{settings: controllers.DefaultSettings()}
	f := flag.NewFlagSet("cask-operator", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.settings.Namespace, "namespace", o.settings.Namespace, "namespace of the pods it makes, and its own")
	f.StringVar(&o.settings.ImagePrefix, "image-prefix", o.settings.ImagePrefix, "images are <prefix>target:<tag> and so on")
	f.StringVar(&o.settings.ImageTag, "image-tag", o.settings.ImageTag, "tag of the images")
	f.StringVar(&o.metrics, "metrics", ":8080", "address of /metrics; 0 for none")
	f.StringVar(&o.health, "health", ":8081", "address of /healthz and /readyz")
	f.BoolVar(&o.leaderElection, "leader-elect", true, "act only while holding the lease cask-operator")
	f.DurationVar(&o.nodeFailureGrace, "node-failure-grace", 10*time.Second,
		"how long a node with volumes may be NotReady before it is taken out of service; 0 never does it")
	f.BoolVar(&o.verbose, "verbose", false, "log more")
	limits(f, "replica", &o.settings.ReplicaLimits)
	limits(f, "target", &o.settings.TargetLimits)
	limits(f, "ioc", &o.settings.IOCLimits)
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		err := fmt.Errorf("unexpected argument %q: cask-operator takes flags only", f.Arg(0))
		fmt.Fprintln(out, err)
		return o, err
	}
	return o, nil
}

func limits(f *flag.FlagSet, name string, l *controllers.Limits) {
	quantity := func(flagName string, q *resource.Quantity, usage string) {
		f.Func(name+"-"+flagName, fmt.Sprintf("%s of %s pods (default %s)", usage, name, q), func(s string) error {
			parsed, err := resource.ParseQuantity(s)
			if err == nil {
				*q = parsed
			}
			return err
		})
	}
	quantity("cpu", &l.CPU, "CPU request")
	quantity("memory", &l.Memory, "memory request")
	quantity("memory-limit", &l.MemoryLimit, "memory limit")
}

func run(o options) error {
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the cluster: %w", err)
	}
	mgr, err := ctrl.NewManager(cfg, manager.Options{
		Scheme:                        controllers.Scheme(),
		Cache:                         cache.Options{DefaultNamespaces: map[string]cache.Config{o.settings.Namespace: {}}},
		Metrics:                       server.Options{BindAddress: o.metrics},
		HealthProbeBindAddress:        o.health,
		LeaderElection:                o.leaderElection,
		LeaderElectionID:              "cask-operator",
		LeaderElectionNamespace:       o.settings.Namespace,
		LeaderElectionReleaseOnCancel: true, // main ends when the manager does
	})
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	for _, add := range []func(string, healthz.Checker) error{mgr.AddHealthzCheck, mgr.AddReadyzCheck} {
		if err := add("ping", healthz.Ping); err != nil {
			return err
		}
	}
	if err := controllers.Setup(mgr, controllers.Options{Settings: o.settings, NodeFailureGrace: o.nodeFailureGrace}); err != nil {
		return err
	}
	return mgr.Start(ctrl.SetupSignalHandler())
}
