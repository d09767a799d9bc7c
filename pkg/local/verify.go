package local

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/cask-storage/cask/pkg/target"
)

// Verify has the replicas of the volume in dir compared, and waits for what comes
// of it.
func Verify(ctx context.Context, dir string) (*target.Verification, error) {
	st, err := ReadState(dir)
	if err != nil {
		return nil, err
	}
	url := strings.TrimSuffix(st.Metrics, "/metrics") + "/verify"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask the target of %s to compare its replicas: %w", dir, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the target of %s: %s: %s", dir, resp.Status, strings.TrimSpace(string(body))) //nolint:err113 // told to people
	}
	if err != nil {
		return nil, err
	}
	v := new(target.Verification)
	if err := json.Unmarshal(body, v); err != nil {
		return nil, fmt.Errorf("the target of %s: %w", dir, err)
	}
	return v, nil
}
