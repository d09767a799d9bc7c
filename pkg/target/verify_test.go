package target

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
)

// TestVerify: the replicas are compared on request; one that was changed behind
// its back is found, named and told.
func TestVerify(t *testing.T) {
	setup := newSetup(t, 3)
	tg, _ := setup.target(t, "t1")
	serving(t, tg, 3)
	if err := do(tg, block.OpWrite, 0, bytes.Repeat([]byte("good"), 256<<10)); err != nil {
		t.Fatal(err)
	}
	setup.everywhere(t)
	s := httptest.NewServer(tg.VerifyHandler())
	defer s.Close()
	verify := func() (v Verification) {
		t.Helper()
		resp, err := http.Post(s.URL, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	if v := verify(); len(v.Differ) != 0 || v.Failed != "" || len(v.Replicas) != 3 || v.Held < 3<<20 || v.Compared != 0 || !strings.HasPrefix(v.Text(), "3 replicas are the same") {
		t.Fatalf("of replicas that are the same: %+v, %s", v, v.Text())
	}
	setup.replicas[1].s.Load().Plant(700 << 10)
	v := verify()
	want := block.Extent{Off: 700 << 10, Len: 512}
	if len(v.Differ) != 1 || string(v.Differ[0].Replica) != setup.replicas[1].id || len(v.Differ[0].Extents) != 1 || v.Differ[0].Extents[0] != want || v.Compared == 0 {
		t.Fatalf("of replicas that differ: %+v, want %v of %s", v, want, setup.replicas[1].id)
	}
	if text := tg.Status().Verified.Text(); !strings.Contains(text, "REPLICAS DIFFER") || !strings.Contains(text, setup.replicas[1].id) {
		t.Errorf("status: %s", text)
	}
	rec := httptest.NewRecorder()
	tg.Handler().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(rec.Body.String(), `cask_replica_differs_bytes{replica="`+setup.replicas[1].id) {
		t.Error("no metric tells")
	}
}
