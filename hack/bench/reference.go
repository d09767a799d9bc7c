package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// raw is a file on the same disk, driven by fio.
type raw struct {
	path string
	o    options
}

func newRaw(path string, o options) (raw, error) {
	f, err := os.Create(path)
	if err != nil {
		return raw{}, err
	}
	return raw{path, o}, f.Close()
}

func (raw) name() string   { return "raw file" }
func (r raw) close() error { return os.Remove(r.path) }

// fioJob is the part of fio's JSON that is used.
type fioJob struct {
	Read, Write fioSide
	Sync        struct {
		LatNS fioLatency `json:"lat_ns"`
	}
	UsrCPU float64 `json:"usr_cpu"`
	SysCPU float64 `json:"sys_cpu"`
}

type fioSide struct {
	IOPS  float64
	ClatN fioLatency `json:"clat_ns"`
}

type fioLatency struct{ Percentile map[string]float64 }

// run measures with as many processes as there are writers that flush, else one.
func (r raw) run(ctx context.Context, w work) (Row, error) {
	row := Row{System: r.name(), Frontend: "io_uring O_DIRECT"}
	rw := map[string]string{"read": "randread", "write": "randwrite", "seqread": "read", "seqwrite": "write", "flush": "randwrite"}[w.op]
	args := []string{"--name=raw", "--filename=" + r.path, "--ioengine=io_uring", "--direct=1", "--rw=" + rw,
		fmt.Sprintf("--bs=%d", w.bs), fmt.Sprintf("--size=%d", r.o.span), "--group_reporting", "--output-format=json", "--refill_buffers"}
	switch w.op {
	case "seqwrite": // the whole file, once
		args = append(args, fmt.Sprintf("--iodepth=%d", w.qd), "--fallocate=none")
	case "flush":
		args = append(args, "--iodepth=1", "--fdatasync=1", fmt.Sprintf("--numjobs=%d", w.qd))
	default:
		args = append(args, fmt.Sprintf("--iodepth=%d", w.qd))
	}
	if w.op != "seqwrite" {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%d", max(1, int(r.o.time.Seconds()))))
	}
	out, err := exec.CommandContext(ctx, "fio", args...).Output()
	if err != nil {
		return row, fmt.Errorf("fio (apt-get install fio): %w", err)
	}
	var result struct{ Jobs []fioJob }
	if err := json.Unmarshal(out, &result); err != nil || len(result.Jobs) != 1 {
		return row, fmt.Errorf("fio's JSON: %w", err)
	}
	fill(&row, &result.Jobs[0], w)
	return row, nil
}

func fill(row *Row, j *fioJob, w work) {
	side := j.Write
	if w.op == "read" || w.op == "seqread" {
		side = j.Read
	}
	row.IOPS = side.IOPS
	us := func(p string) float64 { return side.ClatN.Percentile[p] / 1e3 }
	if w.op == "flush" { // of a write and the fdatasync after it, about
		us = func(p string) float64 { return (side.ClatN.Percentile[p] + j.Sync.LatNS.Percentile[p]) / 1e3 }
	}
	row.P50, row.P99, row.P999 = us("50.000000"), us("99.000000"), us("99.900000")
	jobs := 1.0
	if w.op == "flush" {
		jobs = float64(w.qd)
	}
	row.CPU = (j.UsrCPU + j.SysCPU) / 100 * 1e6 * jobs / side.IOPS
}

// loopback is an exchange of 4k and a short answer over TCP, one at a time,
// between two goroutines: what this machine takes to wake one side and then
// the other.
type loopback struct{ time time.Duration }

func (loopback) name() string { return "loopback" }
func (loopback) close() error { return nil }

func (b loopback) run(ctx context.Context, w work) (Row, error) {
	row := Row{System: b.name(), Frontend: "tcp"}
	if w.op != "write" || w.qd != 1 {
		return row, errNotMeant
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return row, err
	}
	defer l.Close()
	go answer(l, w.bs) // owned by this call; ends when the connection is closed, nobody waits for the last read
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return row, err
	}
	defer c.Close()
	var lat []time.Duration
	self := []int{os.Getpid()}
	began, before := time.Now(), used(self)
	buf := make([]byte, w.bs)
	for time.Since(began) < b.time && ctx.Err() == nil {
		at := time.Now()
		if _, err := c.Write(buf); err != nil {
			return row, err
		}
		if _, err := io.ReadFull(c, buf[:64]); err != nil {
			return row, err
		}
		lat = append(lat, time.Since(at))
	}
	row.IOPS = float64(len(lat)) / time.Since(began).Seconds()
	row.CPU = float64(used(self).minus(before).cpu.Microseconds()) / float64(len(lat))
	row.P50, row.P99, row.P999 = percentiles(lat)
	return row, nil
}

func answer(l net.Listener, n int) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	buf := make([]byte, n)
	for err == nil {
		if _, err = io.ReadFull(c, buf); err == nil {
			_, err = c.Write(buf[:64])
		}
	}
}
