package target

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cask-storage/cask/pkg/block"
)

var (
	descServing = prometheus.NewDesc("cask_volume_serving", "1 while a write quorum is in sync and I/O is accepted.", []string{"volume"}, nil)
	descEpoch   = prometheus.NewDesc("cask_volume_epoch", "Epoch of this target.", []string{"volume"}, nil)
	descReplica = prometheus.NewDesc("cask_replica_in_sync", "1 while the replica has every operation and counts.", []string{"volume", "replica"}, nil)
	descVoter   = prometheus.NewDesc("cask_replica_voter", "1 while the replica votes.", []string{"volume", "replica"}, nil)
	descExposed = prometheus.NewDesc("cask_volume_exposed_operations", "Acknowledged operations that one voter alone has.", []string{"volume"}, nil)
	descRebuild = prometheus.NewDesc("cask_replica_rebuild_bytes", "Progress of a replica's rebuild.", []string{"volume", "replica", "part"}, nil)
	descDamage  = prometheus.NewDesc("cask_replica_damaged_bytes", "Bytes that the replica cannot read, known and not repaired yet.", []string{"volume", "replica"}, nil)
	descFound   = prometheus.NewDesc("cask_replica_damage_found_bytes_total", "Bytes that the replica could not read.", []string{"volume", "replica"}, nil)
	descHealed  = prometheus.NewDesc("cask_replica_damage_healed_bytes_total", "Bytes repaired from another replica.", []string{"volume", "replica"}, nil)
	descOps     = prometheus.NewDesc("cask_volume_operations_total", "Completed operations.", []string{"volume", "op"}, nil)
	descBytes   = prometheus.NewDesc("cask_volume_bytes_total", "Bytes of completed operations.", []string{"volume", "op"}, nil)
	descErrors  = prometheus.NewDesc("cask_volume_errors_total", "Operations completed with an error.", []string{"volume"}, nil)
)

// Describe implements prometheus.Collector.
func (t *Target) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(t, ch) }

// Collect implements prometheus.Collector.
func (t *Target) Collect(ch chan<- prometheus.Metric) {
	s, v := t.Status(), t.cfg.Volume.Volume
	gauge := func(d *prometheus.Desc, x float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, x, append([]string{v}, labels...)...)
	}
	count := func(d *prometheus.Desc, x uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(x), append([]string{v}, labels...)...)
	}
	gauge(descServing, boolean(s.Serving))
	gauge(descEpoch, float64(s.Epoch))
	t.mu.Lock()
	exposed := t.exposed
	t.mu.Unlock()
	gauge(descExposed, float64(exposed))
	for _, r := range s.Replicas {
		gauge(descVoter, boolean(r.Voter), string(r.ID))
		gauge(descReplica, boolean(r.State == "InSync"), string(r.ID))
		gauge(descRebuild, float64(r.Done), string(r.ID), "done")
		gauge(descRebuild, float64(r.Total), string(r.ID), "total")
		gauge(descDamage, float64(r.Damaged), string(r.ID))
		count(descFound, r.Found, string(r.ID))
		count(descHealed, r.Healed, string(r.ID))
	}
	s.Verified.collect(gauge)
	for op := block.OpRead; op <= block.OpWriteZeroes; op++ {
		count(descOps, t.stats.ops[op].Load(), op.String())
		count(descBytes, t.stats.bytes[op].Load(), op.String())
	}
	count(descErrors, t.stats.errs.Load())
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Handler serves /healthz, /readyz (503 and the reason while not serving) and
// /metrics.
func (t *Target) Handler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(t)
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := t.Status()
		if !s.Serving {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprintf(w, "%s: %s\n", s.Reason, s.Message)
	})
	return mux
}
