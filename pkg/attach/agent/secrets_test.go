//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

func secrets(t *testing.T) dhchap.Secrets {
	t.Helper()
	s, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSecretsReachTheConnector: the kernel, or a child by its pipe, gets them, and
// nothing that is kept or told has them.
func TestSecretsReachTheConnector(t *testing.T) {
	dir, k, s := t.TempDir(), &fakeKernel{have: map[string]bool{}}, secrets(t)
	a := newAgent(t, dir, k)
	i, err := a.Attach(t.Context(), Request{spec("v"), s})
	if err != nil || k.secrets != s {
		t.Fatalf("the kernel was given other secrets, %v", err)
	}
	told, err := json.Marshal(i)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(filepath.Join(dir, "v", "state.json"))
	if err != nil || strings.Contains(string(kept), "DHHC") || strings.Contains(string(told), "DHHC") {
		t.Errorf("kept %s, told %s, %v", kept, told, err)
	}
	r, err := secretsPipe(s)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readSecrets(r); err != nil || got != s {
		t.Errorf("the child got others, %v", err)
	}
	if got, err := readSecrets(nil); err != nil || got != (dhchap.Secrets{}) {
		t.Errorf("without a pipe: %v", err)
	}
}

func TestValidateRequest(t *testing.T) {
	good := Request{spec("v"), secrets(t)}
	for what, c := range map[string]struct {
		change func(*Request)
		ok     bool
	}{
		"both":         {func(*Request) {}, true},
		"none":         {func(r *Request) { r.Secrets = dhchap.Secrets{} }, true},
		"one":          {func(r *Request) { r.Secrets.Controller = "" }, false},
		"other form":   {func(r *Request) { r.Secrets.Host = "password,ctrl_loss_tmo=0" }, false},
		"iSCSI":        {func(r *Request) { r.Frontend = FrontendISCSI }, false},
		"no such spec": {func(r *Request) { r.NSID = 0 }, false},
	} {
		r := good
		c.change(&r)
		err := r.Validate()
		if c.ok != (err == nil) || err != nil && (!errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "password")) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
