//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	csispec "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/cask-storage/cask/csi/events"
	"github.com/cask-storage/cask/csi/grpcserver"
	"github.com/cask-storage/cask/csi/healthz"
	"github.com/cask-storage/cask/csi/identity"
	"github.com/cask-storage/cask/csi/node"
	"github.com/cask-storage/cask/csi/ownership"
	"github.com/cask-storage/cask/csi/registration"
	"github.com/cask-storage/cask/csi/runnable"
	"github.com/cask-storage/cask/pkg/attach/agent"
)

type nodeFlags struct {
	endpoint, registration, driver, node, kubeletDir, attachSocket, health, kubeconfig string
	maxVolumes                                                                         int64
	events                                                                             bool
}

func nodeCommand() *cobra.Command {
	var f nodeFlags
	c := &cobra.Command{
		Use: "node", Short: "the CSI node service", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runNode(c.Context(), f) },
	}
	c.Flags().StringVar(&f.endpoint, "endpoint", "", "unix socket of the CSI services (default <kubelet-dir>/plugins/<driver-name>/csi.sock)")
	c.Flags().StringVar(&f.registration, "registration", "", "socket for the kubelet's plugin watcher (default <kubelet-dir>/plugins_registry/<driver-name>-reg.sock)")
	c.Flags().StringVar(&f.driver, "driver-name", identity.DriverName, "the driver's name")
	c.Flags().StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "this node's name (default $NODE_NAME)")
	c.Flags().StringVar(&f.kubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's root directory, at the same path as on the host")
	c.Flags().StringVar(&f.attachSocket, "attach-socket", "", "the attach agent's socket (default <kubelet-dir>/plugins/<driver-name>/attach/agent.sock)")
	c.Flags().StringVar(&f.health, "health", ":9809", "HTTP address of /healthz; empty for none")
	c.Flags().StringVar(&f.kubeconfig, "kubeconfig", "", "only outside a cluster")
	c.Flags().Int64Var(&f.maxVolumes, "max-volumes", 128, "volumes that may be attached to this node")
	c.Flags().BoolVar(&f.events, "events", true, "write an event on a Volume when it is attached")
	return c
}

func (f *nodeFlags) setDefaults() error {
	if f.node == "" {
		return errors.New("--node or $NODE_NAME is wanted: the name of this node")
	}
	plugin := filepath.Join(f.kubeletDir, "plugins", f.driver)
	for flag, value := range map[*string]string{
		&f.endpoint:     filepath.Join(plugin, "csi.sock"),
		&f.registration: filepath.Join(f.kubeletDir, "plugins_registry", f.driver+"-reg.sock"),
		&f.attachSocket: filepath.Join(plugin, "attach", "agent.sock"),
	} {
		if *flag == "" {
			*flag = value
		}
	}
	return nil
}

func runNode(ctx context.Context, f nodeFlags) error {
	log := logger("node")
	if err := f.setDefaults(); err != nil {
		return err
	}
	o := node.Options{Node: f.node, MaxVolumes: f.maxVolumes, Attacher: agent.NewClient(f.attachSocket), Log: log}
	parts := []runnable.Runnable{&healthz.Server{Address: f.health, Log: log}}
	if api, err := apiClient(f.kubeconfig); err != nil {
		log.Warn("an unmount of a volume that was given to another node will wait for ever", "err", err)
	} else {
		o.Owner = ownership.Reader{Client: api}.Owner
	}
	if f.events {
		recorder, err := eventRecorder(f)
		if err != nil {
			log.Warn("no events are written", "err", err)
		} else {
			o.Attached = recorder.Attached
			parts = append(parts, recorder)
		}
	}
	server := node.New(o)
	service := node.Locked(server)
	parts = append(parts, server,
		&grpcserver.Server{Socket: f.endpoint, Log: log, Register: func(s *grpc.Server) {
			csispec.RegisterIdentityServer(s, &identity.Server{Name: f.driver, Version: version})
			csispec.RegisterNodeServer(s, service)
		}},
		&grpcserver.Server{Socket: f.registration, Log: log, Register: func(s *grpc.Server) {
			registerapi.RegisterRegistrationServer(s, &registration.Server{Driver: f.driver, Endpoint: f.endpoint, Log: log})
		}})
	return runnable.Run(ctx, parts...)
}

func eventRecorder(f nodeFlags) (*events.Recorder, error) {
	cfg, err := restConfig(f.kubeconfig)
	if err != nil {
		return nil, err
	}
	r, err := events.New(cfg, events.Options{Component: "cask-csi", Node: f.node})
	if err != nil {
		return nil, fmt.Errorf("make the event recorder: %w", err)
	}
	return r, nil
}
