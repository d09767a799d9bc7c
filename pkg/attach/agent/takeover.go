//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// takeOver looks at every record in the run directory: adopts, or cleans up.
func (a *Agent) takeOver() error {
	entries, err := os.ReadDir(a.opt.RunDir)
	if err != nil {
		return fmt.Errorf("read the run directory: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		dir := filepath.Join(a.opt.RunDir, e.Name())
		if err := a.takeOverOne(dir); err != nil {
			a.opt.Log.Error("left behind as it is", "dir", dir, "err", err)
		}
	}
	return nil
}

func (a *Agent) takeOverOne(dir string) error {
	rec, err := readRecord(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return os.RemoveAll(dir) // died before it recorded anything
	case err != nil:
		return err
	case rec.BootID != a.boot:
		a.opt.Log.Info("forgetting an attachment of an earlier boot", "volume", rec.Spec.Volume)
		return os.RemoveAll(dir)
	}
	t := &attachment{rec: rec, dir: dir, gone: make(chan struct{})}
	if a.alive(t) {
		a.opt.Log.Info("adopted", "volume", rec.Spec.Volume, "device", rec.Device, "path", rec.Path, "pid", rec.PID)
		a.attached[rec.Spec.Volume] = t
		if rec.Path == PathUser {
			a.wg.Add(1)
			go a.watch(t) // ends with the child or with a.ctx; Close waits
		}
		return nil
	}
	a.opt.Log.Warn("cleaning up behind an attachment that is not served any more", "volume", rec.Spec.Volume, "device", rec.Device, "pid", rec.PID)
	if err := rec.kill(); err != nil {
		return err
	}
	return a.clean(dir, rec)
}

// alive asks whether t still serves.
func (a *Agent) alive(t *attachment) bool {
	if t.rec.Path == PathKernel {
		_, _, found := a.opt.Kernel.Lookup(t.rec.Spec)
		return found
	}
	if t.rec.Device == "" {
		return false // it never got so far, and who waited for it is gone
	}
	ctx, cancel := context.WithTimeout(a.ctx, stateTimeout)
	defer cancel()
	return t.child().call(ctx, "/v1/state", nil, nil) == nil
}

func parseStarted(raw []byte) error {
	var s started
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("%w: the child ended before it served: see its log", ErrInternal)
	}
	if s.Status != http.StatusOK {
		return remoteError{class: errorOf(s.Status), text: s.Error}
	}
	return nil
}
