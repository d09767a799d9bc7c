//go:build linux

package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/loop"
)

const (
	stateVersion = 1 // of record; frozen, a higher one is left alone
	maxState     = 64 << 10
	maxDirName   = 44 // keeps socket paths within the 108 bytes of sun_path
)

// record is state.json.
type record struct {
	Version int           `json:"version"`
	BootID  string        `json:"bootID"`
	Spec    Spec          `json:"spec"`
	Path    string        `json:"path"`
	Why     string        `json:"why"`
	PID     int           `json:"pid,omitempty"`
	Started uint64        `json:"started,omitempty"` // of PID, clock ticks since boot
	Backing *loop.Backing `json:"backing,omitempty"`
	Device  string        `json:"device,omitempty"`
}

// dirName is the name of the volume's directory and of its served file: its own, or
// a hash of a long one.
func dirName(volume string) string {
	if len(volume) <= maxDirName {
		return volume
	}
	sum := sha256.Sum256([]byte(volume))
	return "h-" + hex.EncodeToString(sum[:16])
}

func readRecord(dir string) (record, error) {
	var r record
	raw, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		return r, fmt.Errorf("read the record: %w", err)
	}
	if err := decodeRecord(raw, &r); err != nil {
		return r, fmt.Errorf("record in %s: %w", dir, err)
	}
	return r, nil
}

func decodeRecord(raw []byte, r *record) error {
	if len(raw) > maxState {
		return fmt.Errorf("%d bytes, at most %d: %w", len(raw), maxState, ErrInvalid)
	}
	if err := json.Unmarshal(raw, r); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if r.Version != stateVersion {
		return fmt.Errorf("version %d, this agent knows %d: %w", r.Version, stateVersion, ErrInvalid)
	}
	return r.Spec.Validate()
}

func (r record) write(dir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the record: %w", err)
	}
	tmp := filepath.Join(dir, "state.json.tmp")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, "state.json")); err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	return nil
}

func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// startTime of a process tells it from a later one with the same number.
func startTime(pid int) (uint64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	return parseStartTime(raw)
}

// parseStartTime reads field 22 of /proc/PID/stat; field 2, in parentheses,
// may hold anything.
func parseStartTime(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, fmt.Errorf("stat without a command: %w", ErrInvalid)
	}
	const field = 22 - 3 // the first after the parenthesis is field 3
	f := bytes.Fields(stat[i+1:])
	if len(f) <= field {
		return 0, fmt.Errorf("stat of %d fields: %w", len(f), ErrInvalid)
	}
	n, err := strconv.ParseUint(string(f[field]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("start time: %w", err)
	}
	return n, nil
}

// kill ends the recorded process, if that is still the one with its number.
func (r record) kill() error {
	if r.PID <= 1 {
		return nil
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", r.PID, err)
	}
	defer unix.Close(fd)
	if got, err := startTime(r.PID); err != nil || got != r.Started {
		return nil // another process by now
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", r.PID, err)
	}
	return nil
}
