//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	csispec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/controller"
	"github.com/cask-storage/cask/csi/grpcserver"
	"github.com/cask-storage/cask/csi/healthz"
	"github.com/cask-storage/cask/csi/identity"
	"github.com/cask-storage/cask/csi/runnable"
)

type controllerFlags struct {
	endpoint, driver, kubeconfig, health string
	placement, publish, deletion         time.Duration
}

func controllerCommand() *cobra.Command {
	var f controllerFlags
	c := &cobra.Command{
		Use: "controller", Short: "the CSI controller service", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runController(c.Context(), f) },
	}
	c.Flags().StringVar(&f.endpoint, "endpoint", "/csi/csi.sock", "unix socket of the CSI services")
	c.Flags().StringVar(&f.driver, "driver-name", identity.DriverName, "the driver's name")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "only outside a cluster")
	c.Flags().StringVar(&f.health, "health", ":9808", "HTTP address of /healthz; empty for none")
	c.Flags().DurationVar(&f.placement, "placement-timeout", 10*time.Second, "how long CreateVolume waits for the operator to place the volume")
	c.Flags().DurationVar(&f.publish, "publish-timeout", 10*time.Second, "how long ControllerPublishVolume waits for the target's address")
	c.Flags().DurationVar(&f.deletion, "delete-timeout", 10*time.Second, "how long DeleteVolume waits for the operator")
	return c
}

func runController(ctx context.Context, f controllerFlags) error {
	log := logger("controller")
	api, err := apiClient(f.kubeconfig)
	if err != nil {
		return err
	}
	service := controller.Locked(controller.New(controller.Options{
		Client: api, PlacementTimeout: f.placement, PublishTimeout: f.publish, DeleteTimeout: f.deletion, Log: log,
	}))
	server := &grpcserver.Server{Socket: f.endpoint, Log: log, Register: func(s *grpc.Server) {
		csispec.RegisterIdentityServer(s, &identity.Server{Name: f.driver, Version: version})
		csispec.RegisterControllerServer(s, service)
	}}
	return runnable.Run(ctx, server, &healthz.Server{Address: f.health, Log: log})
}

// The API server's calls in a second: many volumes are waited for at once, and
// the server has its own fairness.
const (
	callsPerSecond = 50
	callsAtOnce    = 100
)

// restConfig is the pod's own, unless a kubeconfig is named.
func restConfig(kubeconfig string) (*rest.Config, error) {
	c, err := findConfig(kubeconfig)
	if err == nil {
		c.QPS, c.Burst = callsPerSecond, callsAtOnce
	}
	return c, err
}

func findConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("find the API server (name a --kubeconfig outside a cluster): %w", err)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return c, nil
}

func apiClient(kubeconfig string) (client.Client, error) {
	cfg, err := restConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("make the scheme: %w", err)
		}
	}
	api, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make the API client: %w", err)
	}
	return api, nil
}
