package target

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

var (
	descVerified = prometheus.NewDesc("cask_volume_verified_seconds", "When the last comparison of the replicas ended, Unix time; 0: none has since the target started.", []string{"volume"}, nil)
	descCompared = prometheus.NewDesc("cask_volume_verified_bytes", "Of the last comparison of the replicas, on all of them: bytes held, bytes of block pointers read, bytes of content read.", []string{"volume", "part"}, nil)
	descDiffers  = prometheus.NewDesc("cask_replica_differs_bytes", "Bytes that the last comparison found to differ from the other replicas.", []string{"volume", "replica"}, nil)
)

// Verification is what the last comparison of the replicas came to.
type Verification struct {
	Request string    `json:"request,omitempty"` // the last that was answered
	Ended   time.Time `json:"ended"`
	Failed  string    `json:"failed,omitempty"` // why it came to no end
	Seq     uint64    `json:"seq"`              // the place of the history that was compared
	// Replicas were compared, Size bytes of each.
	Replicas []quorum.ReplicaID `json:"replicas"`
	Size     uint64             `json:"size"`
	// Of all of them, bytes: Held by the content, Read of block pointers; and of
	// content that was Compared since these differ, part of it Unreadable somewhere.
	Held       uint64       `json:"held"`
	Read       uint64       `json:"read"`
	Compared   uint64       `json:"compared"`
	Unreadable uint64       `json:"unreadable"`
	Differ     []Difference `json:"differ,omitempty"`
}

// Difference is where a replica's content is not that of most.
type Difference struct {
	Replica quorum.ReplicaID `json:"replica"`
	Extents block.Set        `json:"extents"`
}

// Text says it to people.
func (v *Verification) Text() string {
	switch {
	case v == nil:
		return "the replicas have not been compared since the target started"
	case v.Failed != "":
		return "the replicas could not be compared: " + v.Failed
	case len(v.Differ) == 0:
		return fmt.Sprintf("%d replicas are the same at operation %d: %d bytes held, %d bytes of block pointers and %d of content read", len(v.Replicas), v.Seq, v.Held, v.Read, v.Compared)
	}
	var out []string
	for _, d := range v.Differ {
		out = append(out, fmt.Sprintf("%s in %d bytes: %v", d.Replica, d.Extents.Bytes(), d.Extents))
	}
	return fmt.Sprintf("REPLICAS DIFFER at operation %d: %s. Nothing was changed. Find out which is right (snapshots, backups, the application's own checks), "+
		"then have the wrong one made anew", v.Seq, strings.Join(out, "; "))
}

// verification is what the core says, nil if nothing.
func (t *Target) verification(v volume.Verification) *Verification {
	if v.Ended == 0 {
		return nil
	}
	out := &Verification{Request: v.Request, Ended: t.start.Add(time.Duration(v.Ended)), Failed: v.Failed, Seq: uint64(v.Seq), Replicas: v.Of, Size: v.Size,
		Held: v.Held, Read: v.Read, Compared: v.Looked, Unreadable: v.Skipped}
	for _, d := range v.Differ {
		out.Differ = append(out.Differ, Difference{d.ID, d.Extents})
	}
	return out
}

// same compares two verifications: each ends at a time of its own.
func (v *Verification) same(o *Verification) bool {
	return v == o || v != nil && o != nil && v.Ended.Equal(o.Ended)
}

// Verify has the replicas compared; request names it in Status, and is asked for
// once.
func (t *Target) Verify(request string) {
	t.post(func() { t.core.Verify(t.now(), request) })
}

// collectVerified are the metrics of the last verification.
func (v *Verification) collect(gauge func(*prometheus.Desc, float64, ...string)) {
	if v == nil {
		gauge(descVerified, 0)
		return
	}
	gauge(descVerified, float64(v.Ended.Unix()))
	gauge(descCompared, float64(v.Held), "held")
	gauge(descCompared, float64(v.Read), "read")
	gauge(descCompared, float64(v.Compared), "content")
	for _, d := range v.Differ {
		gauge(descDiffers, float64(d.Extents.Bytes()), string(d.Replica))
	}
}

const verifyLook = 100 * time.Millisecond

// VerifyHandler answers a POST, which has the replicas compared, when that has
// ended. It is for a volume that is not in a cluster: whoever reaches it may ask.
func (t *Target) VerifyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, "POST has the replicas compared", http.StatusMethodNotAllowed)
			return
		}
		request := time.Now().UTC().Format(time.RFC3339Nano)
		t.Verify(request)
		look := time.NewTicker(verifyLook)
		defer look.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-t.ended:
				http.Error(w, "the target has ended", http.StatusServiceUnavailable)
				return
			case <-look.C:
			}
			if v := t.Status().Verified; v != nil && v.Request == request {
				_ = json.NewEncoder(w).Encode(v) // the host of it is gone, then
				return
			}
		}
	})
}
