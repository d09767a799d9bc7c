package ioc

import (
	"fmt"
	"net/http"
)

// NewHealthHandler serves /healthz (the process runs), /readyz (the pool
// directory can be used, else why not) and /metrics.
func NewHealthHandler(e Engine, cfg FileConfig) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if _, err := e.Status(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		st, err := e.Status(r.Context())
		st.Pool, st.Node = cfg.Pool, cfg.Node
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		// A failed write means the scraper left.
		_ = WriteMetrics(w, st, err)
	})
	return mux
}
