package ioc

import (
	"fmt"
	"io"
)

// WriteMetrics writes a pool directory's state as Prometheus text; problem is
// nil when st holds, else why the directory cannot be used.
func WriteMetrics(w io.Writer, st Status, problem error) error {
	labels := fmt.Sprintf("{pool=%q,node=%q}", st.Pool, st.Node)
	ready := uint64(1)
	if problem != nil {
		ready = 0
	}
	gauges := []struct {
		name, help string
		value      uint64
		always     bool
	}{
		{"ready", "1 when the pool directory can be used.", ready, true},
		{"error_code", "Class of the error that keeps the directory from being used, 0 for none.", uint64(CodeOf(problem)), true},
		{"capacity_bytes", "Size of the file system.", st.Capacity, false},
		{"free_bytes", "Free space of the file system.", st.Free, false},
		{"promised_bytes", "Sum of the extents' sizes.", st.Promised, false},
		{"allocated_bytes", "Space the extents take up.", st.Allocated, false},
		{"available_bytes", "Bytes that can still be promised.", st.Available, false},
		{"extents", "Number of extents.", uint64(st.Extents), false},
		{"faulty_extents", "Number of extents that are missing, truncated or damaged.", uint64(st.Faulty), false},
	}
	for _, g := range gauges {
		if problem != nil && !g.always {
			continue
		}
		_, err := fmt.Fprintf(w, "# HELP cask_ioc_%s %s\n# TYPE cask_ioc_%s gauge\ncask_ioc_%s%s %d\n",
			g.name, g.help, g.name, g.name, labels, g.value)
		if err != nil {
			return err
		}
	}
	return nil
}
