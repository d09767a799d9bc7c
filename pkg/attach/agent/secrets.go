//go:build linux

package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// maxSecrets is less than a pipe holds: writing them waits for nobody.
const maxSecrets = 4096

// secretsPipe holds secrets, for one reader.
func secretsPipe(s dhchap.Secrets) (*os.File, error) {
	raw, err := json.Marshal(s)
	if err != nil || len(raw) > maxSecrets {
		return nil, fmt.Errorf("secrets of %d bytes: %w", len(raw), ErrInvalid)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer w.Close()
	if _, err := w.Write(raw); err != nil {
		r.Close()
		return nil, fmt.Errorf("fill a pipe: %w", err)
	}
	return r, nil
}

// readSecrets reads what secretsPipe made.
func readSecrets(r io.ReadCloser) (s dhchap.Secrets, err error) {
	if r == nil {
		return s, nil
	}
	defer r.Close()
	if err := json.NewDecoder(io.LimitReader(r, maxSecrets)).Decode(&s); err != nil {
		return s, fmt.Errorf("%w: read the secrets: %w", ErrInternal, err)
	}
	return s, nil
}
