// Package local runs one volume on one machine without Kubernetes: replicas
// and a target as local processes, watched by a supervisor that restarts those
// that end. For a laptop, a benchmark or a bug hunt.
//
// # Files
//
//	DIR/volume.json     what the volume is; made by the first Up; Resize changes the size
//	DIR/record.json     the target's authority (package target)
//	DIR/rN/             the pool directory of replica rN (package ioc)
//	DIR/state.json      while it runs: addresses and pids
//	DIR/lock            held by the supervisor
//	DIR/logs/           a log for each process
//
// # Concurrency
//
// Up, Down and ReadState are called by short-lived commands; Supervise owns
// one goroutine for each child and waits for them.
package local

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

// Spec is what the user asked for; after the first Up Size alone changes, by
// Resize.
type Spec struct {
	Name        string       `json:"name"`
	Size        uint64       `json:"size"` // bytes that the volume is to have
	Replicas    int          `json:"replicas"`
	Consistency quorum.Level `json:"consistency"`
	Zones       string       `json:"zones,omitempty"`     // local or each; the replicas are in zone0, zone1, zone0, …
	MinVoters   int          `json:"minVoters,omitempty"` // 0: more than half
	Durability  string       `json:"durability"`
	Compression string       `json:"compression"`
	RecordSize  uint64       `json:"recordSize,omitempty"` // bytes; 0 is 8Ki
	Frontend    string       `json:"frontend,omitempty"`   // nvme or iscsi; empty is nvme
	// Ports of the target, its probes and the replicas, chosen once so that
	// hosts find the volume again.
	Ports []int `json:"ports,omitempty"`
}

// NVMe is where a host finds the volume.
type NVMe struct {
	Addr string `json:"addr"`
	NQN  string `json:"nqn"`
	NSID int    `json:"nsid"`
}

// ISCSI is where an initiator finds the volume.
type ISCSI struct {
	Portal string `json:"portal"`
	Node   string `json:"node"`
	LUN    int    `json:"lun"`
}

// PIDs are the processes; 0 for one that is being restarted.
type PIDs struct {
	Supervisor int   `json:"supervisor"`
	Target     int   `json:"target"`
	Replicas   []int `json:"replicas"`
}

// State describes a volume that runs.
type State struct {
	Name    string `json:"name"`
	Dir     string `json:"dir"`
	Size    uint64 `json:"size"`           // that it is to have, bytes
	NVMe    NVMe   `json:"nvme,omitzero"`  // one of the two,
	ISCSI   ISCSI  `json:"iscsi,omitzero"` // as Spec.Frontend says
	Metrics string `json:"metrics"`
	Device  string `json:"device,omitempty"`
	PIDs    PIDs   `json:"pids"`
}

const (
	host        = "127.0.0.1"
	defaultSize = 4 << 30
)

// ErrNotRunning is the class of a volume that is not up.
var ErrNotRunning = errors.New("volume is not running")

func (s Spec) addr(port int) string { return fmt.Sprintf("%s:%d", host, s.Ports[port]) }

// hosts, probes and replica are the addresses of the processes.
func (s Spec) hosts() string        { return s.addr(0) }
func (s Spec) probes() string       { return s.addr(1) }
func (s Spec) replica(i int) string { return s.addr(2 + i) }

func (s Spec) frontend() string   { return cmp.Or(s.Frontend, "nvme") }
func (s Spec) recordSize() uint64 { return cmp.Or(s.RecordSize, 8<<10) }

// check says what is wrong with what the user asked for.
func (s Spec) check() error {
	const mib = 1 << 20
	switch {
	case s.Replicas < 1 || s.Replicas > 7:
		return fmt.Errorf("%d replicas: give 1 to 7", s.Replicas)
	case s.Size < 16*mib || s.Size%mib != 0:
		return fmt.Errorf("a size of %d bytes: give a multiple of 1Mi, at least 16Mi", s.Size)
	case s.Durability != "flush" && s.Durability != "always":
		return fmt.Errorf("durability %q: give flush or always", s.Durability)
	case s.Compression != "lz4" && s.Compression != "zstd" && s.Compression != "off":
		return fmt.Errorf("compression %q: give lz4, zstd or off", s.Compression)
	case s.recordSize() < 4<<10 || s.recordSize() > 128<<10 || s.recordSize()&(s.recordSize()-1) != 0:
		return fmt.Errorf("a record size of %d bytes: give a power of two from 4Ki to 128Ki", s.RecordSize)
	}
	if f := s.frontend(); f != "nvme" && f != "iscsi" {
		return fmt.Errorf("frontend %q: give nvme or iscsi", f)
	}
	if s.MinVoters < 0 || s.MinVoters > s.Replicas {
		return fmt.Errorf("%d voters at least, of %d replicas: give 1 to %d, or leave it out", s.MinVoters, s.Replicas, s.Replicas)
	}
	_, err := quorum.LevelOf(string(s.Consistency), s.Zones)
	return err
}

// zone is where replica i is said to be, the target being in zone 0.
func zone(i int) string { return fmt.Sprintf("zone%d", i%2) }

// open reads the volume's spec or, the first time, writes asked; without a name
// nothing is asked.
func open(dir string, asked Spec) (Spec, error) {
	var s Spec
	path := filepath.Join(dir, "volume.json")
	err := readJSON(path, &s)
	if err == nil {
		asked.Size, asked.RecordSize = cmp.Or(asked.Size, s.Size), cmp.Or(asked.RecordSize, s.RecordSize)
		if asked.Name != "" && !equal(asked, s) {
			return s, fmt.Errorf("%s holds a volume of other settings (%d bytes, %d replicas, %s %s, at least %d voters, %s, %s, records of %d, %s); "+
				"give the same, or another --dir; it grows by: cask local resize",
				dir, s.Size, s.Replicas, s.Consistency, s.Zones, s.MinVoters, s.Durability, s.Compression, s.recordSize(), s.frontend())
		}
		return s, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	if asked.Name == "" {
		return s, fmt.Errorf("%s holds no volume: %w", dir, ErrNotRunning)
	}
	asked.Size = cmp.Or(asked.Size, defaultSize)
	if err := asked.check(); err != nil {
		return s, err
	}
	return create(dir, path, asked)
}

func equal(a, b Spec) bool {
	return a.Size == b.Size && a.Replicas == b.Replicas && a.Consistency == b.Consistency && a.Zones == b.Zones && a.MinVoters == b.MinVoters &&
		a.Durability == b.Durability && a.Compression == b.Compression && a.recordSize() == b.recordSize() && a.frontend() == b.frontend()
}

// create lays out dir; volume.json comes last.
func create(dir, path string, s Spec) (Spec, error) {
	var rec volume.Record
	for i := range s.Replicas {
		id := replicaID(i)
		rec.Voters = append(rec.Voters, quorum.ReplicaID(id))
		if err := os.MkdirAll(filepath.Join(dir, id), 0o700); err != nil {
			return s, err
		}
	}
	var err error
	if s.Ports, err = freePorts(2 + s.Replicas); err != nil {
		return s, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		return s, err
	}
	if err := (target.FileAuthority{Path: filepath.Join(dir, "record.json")}).CreateRecord(rec); err != nil {
		return s, err
	}
	return s, writeJSON(path, s)
}

func replicaID(i int) string { return fmt.Sprintf("r%d", i) }

// freePorts finds ports that nobody uses now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", host+":0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file at once.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// ReadState is the state of the volume in dir, ErrNotRunning when its
// supervisor does not run.
func ReadState(dir string) (State, error) {
	var st State
	err := readJSON(filepath.Join(dir, "state.json"), &st)
	if a, err := readAttach(dir); err == nil && runs(a.PID, dir) {
		st.Device = a.Device
	}
	if s, err := open(dir, Spec{}); err == nil {
		st.Size = s.Size
	}
	if errors.Is(err, os.ErrNotExist) {
		return st, fmt.Errorf("%s: %w; start it with: cask local up --dir %s", dir, ErrNotRunning, dir)
	}
	return st, err
}

// ResolveDir makes dir absolute and remembers it; when it is empty it is the
// one remembered.
func ResolveDir(dir string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w; give --dir", err)
	}
	note := filepath.Join(cache, "cask", "local-dir")
	if dir == "" {
		b, err := os.ReadFile(note)
		if err != nil {
			return "", fmt.Errorf("no volume was started here before; give --dir: %w", err)
		}
		return string(b), nil
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(note), 0o700); err != nil {
		return "", err
	}
	return dir, os.WriteFile(note, []byte(dir), 0o600)
}
