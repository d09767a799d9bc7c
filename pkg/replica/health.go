package replica

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

var (
	descScrub      = prometheus.NewDesc("cask_scrub_bytes", "Progress of the scrub under way, or of the last one.", []string{"volume", "replica", "part"}, nil)
	descScrubbing  = prometheus.NewDesc("cask_scrub_running", "1 while a scrub is under way and not paused.", []string{"volume", "replica"}, nil)
	descScrubBad   = prometheus.NewDesc("cask_scrub_errors", "Blocks that the scrub under way, or the last one, could not read.", []string{"volume", "replica"}, nil)
	descScrubEnded = prometheus.NewDesc("cask_scrub_ended_seconds", "When the last scrub ended, Unix time; 0: none has.", []string{"volume", "replica"}, nil)
	descUnreadable = prometheus.NewDesc("cask_replica_unreadable_bytes", "Bytes that this replica is known not to be able to read.", []string{"volume", "replica"}, nil)
)

// collector is a Server's metrics.
type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c.s
	id := s.core.cfg.Identity
	gauge := func(d *prometheus.Desc, x float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, x, append([]string{id.Volume, id.Replica}, labels...)...)
	}
	gauge(descUnreadable, float64(s.core.Damage().Bytes()))
	st, ok := s.ScrubStatus()
	if !ok {
		return
	}
	running, ended := 0.0, 0.0
	if st.Running && !st.Paused {
		running = 1
	}
	if !st.Ended.IsZero() {
		ended = float64(st.Ended.Unix())
	}
	gauge(descScrub, float64(st.Done), "done")
	gauge(descScrub, float64(st.Total), "total")
	gauge(descScrubbing, running)
	gauge(descScrubBad, float64(st.Errors))
	gauge(descScrubEnded, ended)
}

// Handler serves /healthz (the process runs), /readyz (503 and the reason when
// the replica cannot serve) and /metrics.
func (s *Server) Handler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{s})
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, err)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
