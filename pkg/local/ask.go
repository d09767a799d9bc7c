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

// ask calls the target of the volume, and decodes what it answers.
func (st State) ask(ctx context.Context, method, path string, out any) error {
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(st.Metrics, "/metrics")+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("ask the target of %s: %w", st.Dir, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body))) //nolint:err113 // told to people
	}
	if err == nil {
		err = json.Unmarshal(body, out)
	}
	if err != nil {
		return fmt.Errorf("the target of %s: %w", st.Dir, err)
	}
	return nil
}

// Verify has the replicas of the volume in dir compared, and waits for what comes
// of it.
func Verify(ctx context.Context, dir string) (*target.Verification, error) {
	st, err := ReadState(dir)
	if err != nil {
		return nil, err
	}
	v := new(target.Verification)
	return v, st.ask(ctx, http.MethodPost, "/verify", v)
}
