package main

import (
	"bytes"
	"fmt"
	"html"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func header() {
	fmt.Printf("%-12s %-8s %3s  %-18s %9s %8s %9s %9s %9s %9s %8s %8s %8s %7s\n",
		"system", "by", "rep", "case", "IOPS", "MB/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/op", "target", "sleeps", "faults", "RSS MB")
}

func (r Row) workload() string { return work{r.Op, r.BS, r.QD}.String() }

func (r Row) print() {
	fmt.Printf("%-12s %-8.8s %3d  %-18s %9.0f %8.1f %9.0f %9.0f %9.0f %9.1f %8.1f %8.1f %8.1f %7.0f\n",
		r.System, r.Frontend, r.Replicas, r.workload(), r.IOPS, r.IOPS*float64(r.BS)/1e6, r.P50, r.P99, r.P999, r.CPU, r.Target, r.Switches, r.Faults, r.RSS)
}

// beside is what tells a row of a volume by iSCSI from that by NVMe/TCP.
func (r Row) beside(iscsi string) string {
	if r.Frontend == overISCSI && r.Replicas > 0 {
		return iscsi
	}
	return ""
}

// benchstat writes rows in the format of Go's benchmarks, a file per system.
func benchstat(dir string, rows []Row) error {
	files := map[string]*bytes.Buffer{}
	for _, r := range rows {
		b := files[r.System]
		if b == nil {
			b = &bytes.Buffer{}
			files[r.System] = b
		}
		fmt.Fprintf(b, "Benchmark%s/replicas=%d%s 1 %.1f cpu-us/op %.1f IOPS %.1f p50-us %.1f p99-us %.1f sleeps/op %.1f faults/op %.1f RSS-MB\n",
			strings.ReplaceAll(r.workload(), "-", "/"), r.Replicas, r.beside("/iscsi"), r.CPU, r.IOPS, r.P50, r.P99, r.Switches, r.Faults, r.RSS)
	}
	for name, b := range files {
		file := filepath.Join(dir, "bench-"+strings.ReplaceAll(name, " ", "-")+".txt")
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	barHeight, barGap, groupGap = 14, 2, 14
	left, width                 = 260, 620
)

// plot draws CPU time per operation as bars, the newest row of each case and
// system.
func plot(rows []Row) []byte {
	var order []string
	groups := map[string]map[string]Row{}
	var longest float64
	for _, r := range rows {
		if groups[r.workload()] == nil {
			groups[r.workload()] = map[string]Row{}
			order = append(order, r.workload())
		}
		groups[r.workload()][fmt.Sprintf("%d replicas, %s%s", r.Replicas, r.System, r.beside(", iscsi"))] = r
		longest = max(longest, r.CPU)
	}
	var b bytes.Buffer
	y := 40
	for _, w := range order {
		fmt.Fprintf(&b, `<text x="8" y="%d" font-weight="bold">%s</text>`+"\n", y+12, html.EscapeString(w))
		for _, name := range slices.Sorted(maps.Keys(groups[w])) {
			r := groups[w][name]
			long := r.CPU / longest * width
			fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`,
				left-6, y+12, html.EscapeString(name), left, y, long, barHeight, color(r))
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.0f µs, %.0f IOPS</text>`+"\n", left+long+4, y+12, r.CPU, r.IOPS)
			y += barHeight + barGap
		}
		y += groupGap
	}
	head := fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+
		`<rect width="100%%" height="100%%" fill="white"/><text x="8" y="20" font-size="14">CPU time of all server processes per operation</text>`+"\n",
		left+width+140, y+10)
	return append([]byte(head), append(b.Bytes(), "</svg>\n"...)...)
}

func color(r Row) string {
	switch {
	case r.Replicas == 0:
		return "#999999"
	case r.Replicas == 1:
		return "#5b9bd5"
	}
	return "#1f4e79"
}
