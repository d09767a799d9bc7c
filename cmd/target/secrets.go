package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cask-storage/cask/api/v1alpha1"
	iscsitarget "github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// secrets is a folder of secrets, a file for each, as a mounted Secret is. It
// is read at each login, so a change holds from the next one on. No error and
// no log line holds what is in it.
type secrets string

// read returns a secret; one that is not there is empty.
func (s secrets) read(name string) (string, error) {
	f, err := os.Open(filepath.Join(string(s), name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, v1alpha1.MaxSecret+1)
	n, err := f.Read(b)
	if n > v1alpha1.MaxSecret {
		return "", fmt.Errorf("%s has more than %d bytes", name, v1alpha1.MaxSecret)
	}
	if n == 0 && err != nil {
		return "", fmt.Errorf("%s is empty", name)
	}
	return strings.TrimRight(string(b[:n]), "\n"), nil
}

// all reads several, in order.
func (s secrets) all(names ...string) ([]string, error) {
	var out []string
	var errs []error
	for _, n := range names {
		v, err := s.read(n)
		out, errs = append(out, v), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// chap is what an initiator has to prove: without a password nobody can.
// Discovery, which tells names only, asks nobody.
func (s secrets) chap(_, node string) (*iscsitarget.Auth, error) {
	if node == "" {
		return nil, nil
	}
	v, err := s.all(v1alpha1.KeyCHAPUser, v1alpha1.KeyCHAPSecret, v1alpha1.KeyCHAPMutualUser, v1alpha1.KeyCHAPMutualSecret)
	if err == nil && (v[0] == "" || v[1] == "") {
		err = fmt.Errorf("%s has no %s and %s", string(s), v1alpha1.KeyCHAPUser, v1alpha1.KeyCHAPSecret)
	}
	if err != nil {
		return nil, err
	}
	return &iscsitarget.Auth{User: v[0], Secret: v[1], MutualUser: v[2], MutualSecret: v[3]}, nil
}

// dhchap is the same for NVMe.
func (s secrets) dhchap(context.Context, string) (dhchap.Secrets, error) {
	v, err := s.all(v1alpha1.KeyDHCHAPHost, v1alpha1.KeyDHCHAPController)
	if err == nil && v[0] == "" {
		err = fmt.Errorf("%s has no %s", string(s), v1alpha1.KeyDHCHAPHost)
	}
	if err != nil {
		return dhchap.Secrets{}, err
	}
	return dhchap.Secrets{Host: v[0], Controller: v[1]}, nil
}
