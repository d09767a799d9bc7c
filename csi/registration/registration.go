// Package registration announces the node plugin to the kubelet through its
// plugins_registry directory, so that no registrar sidecar is needed.
package registration

import (
	"context"
	"log/slog"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Server is the Registration service that the kubelet calls.
type Server struct {
	registerapi.UnimplementedRegistrationServer
	Driver string
	// Endpoint is the CSI socket's path on the host.
	Endpoint string
	Log      *slog.Logger
}

// GetInfo tells the kubelet where the plugin is.
func (s *Server) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type: registerapi.CSIPlugin, Name: s.Driver, Endpoint: s.Endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus logs how it went. The kubelet tries again whenever
// the socket is made anew.
func (s *Server) NotifyRegistrationStatus(_ context.Context, st *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if st.GetPluginRegistered() {
		s.Log.Info("registered with the kubelet", "driver", s.Driver)
	} else {
		s.Log.Error("the kubelet refused the registration", "driver", s.Driver, "err", st.GetError())
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
