package ioc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	socketTmp     = ".tmp" // suffix while the socket is being prepared
	requestTime   = 30 * time.Second
	shutdownGrace = 5 * time.Second
)

// NewHandler serves an Engine over HTTP.
func NewHandler(e Engine) http.Handler {
	h := handler{e}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+extentsPath, h.create)
	mux.HandleFunc("GET "+extentsPath, h.list)
	mux.HandleFunc("GET "+extentsPath+"/{name}", h.open)
	mux.HandleFunc("PUT "+extentsPath+"/{name}", h.grow)
	mux.HandleFunc("DELETE "+extentsPath+"/{name}", h.delete)
	mux.HandleFunc("GET "+statusPath, h.status)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &Error{Code: CodeProtocol, Object: "IO container", Detail: fmt.Sprintf("no such call: %.64q", r.Method+" "+r.URL.Path)})
	})
	return mux
}

type handler struct{ engine Engine }

func (h handler) create(w http.ResponseWriter, r *http.Request) {
	var req createRequest
	if err := strict(http.MaxBytesReader(w, r.Body, maxRequest), &req); err != nil {
		writeError(w, &Error{Code: CodeProtocol, Object: "IO container", Detail: "create", Cause: err})
		return
	}
	path, err := h.engine.Create(r.Context(), req.Name, req.Size)
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusCreated, createResponse{Path: path})
}

func (h handler) grow(w http.ResponseWriter, r *http.Request) {
	var req growRequest
	err := strict(http.MaxBytesReader(w, r.Body, maxRequest), &req)
	if err != nil {
		err = &Error{Code: CodeProtocol, Object: "IO container", Detail: "grow", Cause: err}
	} else {
		err = h.engine.Grow(r.Context(), r.PathValue("name"), req.Size)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h handler) list(w http.ResponseWriter, r *http.Request) {
	all, err := h.engine.List(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, listResponse{Extents: all})
}

func (h handler) open(w http.ResponseWriter, r *http.Request) {
	x, err := h.engine.Open(r.Context(), r.PathValue("name"))
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, x)
}

func (h handler) delete(w http.ResponseWriter, r *http.Request) {
	if err := h.engine.Delete(r.Context(), r.PathValue("name")); err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h handler) status(w http.ResponseWriter, r *http.Request) {
	st, err := h.engine.Status(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, st)
}

// Listen makes the socket at path, replacing one left behind, open to its owner
// and group only. A nil owner leaves it to this process's user.
func Listen(path string, owner *Owner) (net.Listener, error) {
	tmp := path + socketTmp
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: cannot remove what an earlier process left: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s: cannot listen (a path has at most about 100 bytes): %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o660)
	if err == nil && owner != nil {
		err = os.Chown(tmp, owner.UID, owner.GID)
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("socket %s: cannot hand it to the replicas: %w", path, err)
	}
	return Bound(l), nil
}

// Bound lets no more connections be open than a server of this package takes.
func Bound(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, slots: make(chan struct{}, maxConns), closed: make(chan struct{})}
}

// Serve answers on l with h until ctx ends, then waits for calls under way.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadTimeout: requestTime, ReadHeaderTimeout: requestTime,
		WriteTimeout: requestTime, IdleTimeout: requestTime, MaxHeaderBytes: maxHeader,
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }() // owned by Serve, which receives from ended
	select {
	case err := <-ended:
		return fmt.Errorf("IO container: serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close()
	}
	<-ended
	return nil
}
