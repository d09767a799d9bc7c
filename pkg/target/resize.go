package target

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// Sizing is how a volume's size stands to the one that it is to have.
type Sizing struct {
	Size   uint64 `json:"size"`             // that hosts may use, bytes; 0: not known yet
	Reason string `json:"reason,omitempty"` // CamelCase, why it is not what it is to be; empty when it is
	Text   string `json:"text,omitempty"`   // and in people's words
}

// ResizeHandler answers with a Sizing. A POST says before that what size the
// volume is to have, ?size=BYTES, which Sizing may not know of yet. It is for a
// volume that is not in a cluster: whoever reaches it may ask.
func (t *Target) ResizeHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			size, err := strconv.ParseUint(r.URL.Query().Get("size"), 10, 64)
			if err != nil || size == 0 {
				http.Error(w, "POST ?size=BYTES has the volume grow to that", http.StatusBadRequest)
				return
			}
			t.post(func() { t.core.Resize(t.now(), size) })
		}
		s := t.Status()
		out := Sizing{s.Size, s.Resize, s.Resizing}
		if s.Size == 0 {
			out.Reason, out.Text = s.Reason, s.Message
		}
		_ = json.NewEncoder(w).Encode(out) // the host of it is gone, then
	})
}
