package grpcserver_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/cask-storage/cask/csi/grpcserver"
	"github.com/cask-storage/cask/csi/registration"
	"github.com/cask-storage/cask/csi/runnable"
)

func server(socket string, register func(*grpc.Server)) *grpcserver.Server {
	return &grpcserver.Server{Socket: socket, Register: register, Log: slog.New(slog.DiscardHandler)}
}

// The kubelet's side of a registration, and an end that leaves no socket to
// confuse the next start.
func TestRegistrationLife(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "plugins_registry", "x-reg.sock")
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		s := server("unix://"+socket, func(s *grpc.Server) {
			registerapi.RegisterRegistrationServer(s, &registration.Server{Driver: "x", Endpoint: "/csi.sock", Log: slog.New(slog.DiscardHandler)})
		})
		go func() { done <- runnable.Run(ctx, s) }()
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		c := registerapi.NewRegistrationClient(conn)
		info, err := c.GetInfo(t.Context(), &registerapi.InfoRequest{}, grpc.WaitForReady(true))
		if err != nil || info.GetType() != registerapi.CSIPlugin || info.GetName() != "x" || info.GetEndpoint() != "/csi.sock" || len(info.GetSupportedVersions()) == 0 {
			t.Errorf("%v, %v", info, err)
		}
		for _, ok := range []bool{true, false} {
			if _, err := c.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{PluginRegistered: ok}); err != nil {
				t.Error(err)
			}
		}
		conn.Close()
		stop()
		if err := <-done; err != nil {
			t.Errorf("end: %v", err)
		}
	}
}

// The first part that fails ends the others.
func TestOneFailureEndsAll(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := server(filepath.Join(dir, "good.sock"), func(*grpc.Server) {})
	bad := server(filepath.Join(dir, "file", "bad.sock"), func(*grpc.Server) {})
	done := make(chan error, 1)
	go func() { done <- runnable.Run(t.Context(), good, bad) }()
	select {
	case err := <-done:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the good part goes on")
	}
}

// A socket that a dead process left does not keep the next one out.
func TestListenReplacesALeftSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = grpcserver.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
