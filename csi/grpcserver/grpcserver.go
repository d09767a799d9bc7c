// Package grpcserver runs gRPC services on a unix socket as something that is
// started with a context and ends with it.
//
// Start may be called once; it owns the goroutine that serves and waits for
// it. Calls are logged by method, code and duration, never by content, which
// may hold secrets.
package grpcserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	stopTimeout = 20 * time.Second
	maxMessage  = 4 << 20
	maxStreams  = 256 // calls at once on a connection
)

// Server serves on one socket.
type Server struct {
	// Socket is a path, with or without unix://.
	Socket string
	// Register adds the services.
	Register func(*grpc.Server)
	Log      *slog.Logger
}

// Start serves until ctx is done, and then lets the calls under way end.
func (s *Server) Start(ctx context.Context) error {
	path := strings.TrimPrefix(s.Socket, "unix://")
	l, err := Listen(path)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(s.logged), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(maxStreams))
	s.Register(srv)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }() // ends by Stop; waited for below
	s.Log.Info("serving", "socket", path)
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", path, err)
	case <-ctx.Done():
	}
	t := time.AfterFunc(stopTimeout, srv.Stop)
	defer t.Stop()
	srv.GracefulStop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", path, err)
	}
	return nil
}

// Listen makes a socket in the place of one that a dead process left.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

func (s *Server) logged(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	began := time.Now()
	resp, err := next(ctx, req)
	level := slog.LevelInfo
	if strings.HasSuffix(info.FullMethod, "/Probe") || strings.HasSuffix(info.FullMethod, "GetCapabilities") {
		level = slog.LevelDebug
	}
	attrs := []any{"method", info.FullMethod, "code", status.Code(err), "took", time.Since(began).Round(time.Millisecond)}
	if v, ok := req.(interface{ GetVolumeId() string }); ok {
		attrs = append(attrs, "volume", v.GetVolumeId())
	}
	if err != nil {
		level = slog.LevelWarn
		attrs = append(attrs, "err", status.Convert(err).Message())
	}
	if status.Code(err) == codes.Internal {
		level = slog.LevelError
	}
	s.Log.Log(ctx, level, "call", attrs...)
	return resp, err
}
