package ioc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	markerFormat  = "cask-pool"
	recordFormat  = "cask-extent"
	formatVersion = 1
	maxRecord     = 4 << 10 // bytes of a marker or record
)

// marker is the content of cask-pool.json.
type marker struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	PoolID  string    `json:"poolID"`
	Pool    string    `json:"pool"`
	Node    string    `json:"node"`
	Created time.Time `json:"created"`
}

// record is the content of an extent's .json file.
type record struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Size    uint64    `json:"size"`
	Created time.Time `json:"created"`
}

var (
	errNotRecord = errors.New("not a file of this format")
	errNewer     = errors.New("written by a newer version of Cask: run that version or a later one")
)

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("ioc: a plain struct does not marshal: %v", err))
	}
	return append(b, '\n')
}

// decode checks format and version before it reads the rest strictly.
func decode(b []byte, format string, into any) error {
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if len(b) > maxRecord {
		return fmt.Errorf("%w: longer than %d bytes", errNotRecord, maxRecord)
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return fmt.Errorf("%w: %w", errNotRecord, err)
	}
	if head.Format != format || head.Version < 1 {
		return fmt.Errorf("%w: format %.20q version %d, want %q", errNotRecord, head.Format, head.Version, format)
	}
	if head.Version > formatVersion {
		return fmt.Errorf("version %d: %w", head.Version, errNewer)
	}
	return strict(bytes.NewReader(b), into)
}

// strict reads one JSON value, with no unknown fields and nothing behind it.
func strict(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", errNotRecord, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: more than one value", errNotRecord)
	}
	return nil
}

func decodeRecord(b []byte, name string) (record, error) {
	var r record
	if err := decode(b, recordFormat, &r); err != nil {
		return record{}, err
	}
	if r.Name != name {
		return record{}, fmt.Errorf("%w: it is the record of extent %.64q", errNotRecord, r.Name)
	}
	if err := checkSize(name, r.Size); err != nil {
		return record{}, fmt.Errorf("%w: %w", errNotRecord, err)
	}
	return r, nil
}

func decodeMarker(b []byte) (marker, error) {
	var m marker
	if err := decode(b, markerFormat, &m); err != nil {
		return marker{}, err
	}
	if m.PoolID == "" || m.Pool == "" || m.Node == "" {
		return marker{}, fmt.Errorf("%w: pool ID, pool and node must not be empty", errNotRecord)
	}
	return m, nil
}
