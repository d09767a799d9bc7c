//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/attach"
	"github.com/cask-storage/cask/pkg/attach/loop"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Opened is a connected device.
type Opened struct {
	Device block.Device
	// Link tells how the connection is; always connected when nil.
	Link func() Link
}

// Opener connects to a target. It returns errors of this package's classes
// ErrUnreachable and ErrRefused where they are meant. The Device must hold
// requests, not fail them, while the target is away.
type Opener func(ctx context.Context, r Request) (Opened, error)

// ChildOptions are a child's.
type ChildOptions struct {
	Dir  string // its directory, with the record
	Open Opener
	// Helper is attach.Options.Helper.
	Helper []string
	// Ready is told the outcome of starting, then closed; nil when nobody
	// waits.
	Ready *os.File
	// Secrets has those of the Request, once; nil when there are none. They are
	// in no argument, environment or file: others could read these.
	Secrets io.ReadCloser
	// ConnectTimeout bounds the first connection.
	ConnectTimeout time.Duration
	Log            *slog.Logger
}

// started is the line that a child writes to Ready.
type started struct {
	Status int    `json:"status"` // an HTTP status, as on the sockets
	Error  string `json:"error,omitempty"`
}

type child struct {
	opt    ChildOptions
	rec    record
	opened Opened
	secret dhchap.Secrets
	att    *attach.Attachment
	// closing is held while the device is being taken away.
	closing sync.Mutex
}

// RunChild serves the attachment recorded in o.Dir until it is detached.
func RunChild(ctx context.Context, o ChildOptions) error {
	c := &child{opt: o}
	l, err := c.start(ctx)
	c.report(err)
	if err != nil {
		return err
	}
	c.opt.Log.Info("attached", "volume", c.rec.Spec.Volume, "device", c.rec.Device, "address", c.rec.Spec.Address)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serveHTTP(serving, l, c.routes()) }() // ends by stop; waited for below
	<-c.att.Done()
	stop()
	err = errors.Join(<-served, c.opened.Device.Close())
	c.opt.Log.Info("detached", "volume", c.rec.Spec.Volume)
	return err
}

func (c *child) report(err error) {
	if c.opt.Ready == nil {
		return
	}
	defer c.opt.Ready.Close()
	s := started{Status: http.StatusOK}
	if err != nil {
		s = started{Status: statusOf(err), Error: err.Error()}
	}
	_ = json.NewEncoder(c.opt.Ready).Encode(s) // an agent that died adopts us later
}

func (c *child) start(ctx context.Context) (net.Listener, error) {
	rec, err := readRecord(c.opt.Dir)
	if err != nil {
		return nil, err
	}
	if c.secret, err = readSecrets(c.opt.Secrets); err != nil {
		return nil, err
	}
	rec.PID = os.Getpid()
	if rec.Started, err = startTime(rec.PID); err != nil {
		return nil, err
	}
	c.rec = rec
	if err := c.rec.write(c.opt.Dir); err != nil {
		return nil, err
	}
	l, err := listen(filepath.Join(c.opt.Dir, "sock"))
	if err != nil {
		return nil, err
	}
	if err := c.attach(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (c *child) attach(ctx context.Context) error {
	connect, cancel := context.WithTimeout(ctx, c.opt.ConnectTimeout)
	defer cancel()
	var err error
	if c.opened, err = c.opt.Open(connect, Request{c.rec.Spec, c.secret}); err != nil {
		return fmt.Errorf("volume %s at %s: %w", c.rec.Spec.Volume, c.rec.Spec.Address, err)
	}
	c.att, err = attach.Serve(ctx, attach.Options{
		Device: c.opened.Device, Name: dirName(c.rec.Spec.Volume), ReadOnly: c.rec.Spec.ReadOnly, Helper: c.opt.Helper, Log: c.opt.Log,
		Found: func(b loop.Backing) error {
			c.rec.Backing = &b
			return c.rec.write(c.opt.Dir)
		},
	})
	if err != nil {
		return errors.Join(err, c.opened.Device.Close())
	}
	c.rec.Device = c.att.DevicePath()
	return c.rec.write(c.opt.Dir)
}

func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect the socket: %w", err)
	}
	return l, nil
}

func (c *child) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) { answer(w, c.info(), nil) })
	m.HandleFunc("GET /v1/watch", c.watch)
	m.HandleFunc("POST /v1/detach", func(w http.ResponseWriter, r *http.Request) {
		var q DetachRequest
		err := decode(r, &q)
		if err == nil {
			err = c.detach(q)
		}
		answer(w, struct{}{}, err)
	})
	return m
}

func (c *child) info() Info {
	i := Info{
		Spec: c.rec.Spec, Device: c.rec.Device, Path: c.rec.Path, Why: c.rec.Why, PID: c.rec.PID,
		Link: Link{Connected: true},
	}
	if c.opened.Link != nil {
		i.Link = c.opened.Link()
	}
	return i
}

// watch answers nothing until the device is gone; its end tells of the
// child's, however that comes.
func (c *child) watch(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	select {
	case <-c.att.Done():
	case <-r.Context().Done():
	}
}

func (c *child) detach(q DetachRequest) error {
	if q.Force {
		return c.force()
	}
	if !c.closing.TryLock() {
		return fmt.Errorf("volume %s: %w: it is being detached and waits for its last writes", c.rec.Spec.Volume, ErrBusy)
	}
	defer c.closing.Unlock()
	err := c.att.Close()
	if errors.Is(err, attach.ErrBusy) || errors.Is(err, attach.ErrInUse) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// force fails what is in flight first: it may be what holds the device.
func (c *child) force() error {
	c.opt.Log.Warn("detaching by force: requests in flight fail", "volume", c.rec.Spec.Volume)
	return errors.Join(c.opened.Device.Close(), c.att.Abandon())
}
