package zvol

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	zfs "github.com/mistifyio/go-zfs/v3"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// The properties by which our datasets and snapshots are known.
const (
	propState = "cask:volume" // of the volume's dataset
	propID    = "cask:id"     // of a snapshot
	propSeq   = "cask:seq"
	making    = "making"
	ready     = "ready"
)

// patience bounds the wait for a device to appear, and for others (udev looks at each
// new one) to let go of it.
const patience = 20 * time.Second

// Options say where a volume is and how it is made.
type Options struct {
	Dataset     string // of the volume: pool/…/name
	Size        uint64 // bytes, a multiple of BlockSize; Create only
	BlockSize   uint32 // volblocksize, a power of two; DefaultBlockSize when 0; Create only
	Compression string // as ZFS knows it; lz4 when empty; Create only
	ring        uint64 // bytes; tests make it small
}

// DefaultBlockSize is what ZFS itself takes for a zvol, from 2.2 on.
const DefaultBlockSize = 16 << 10

func (o Options) complete() Options {
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.Compression == "" {
		o.Compression = "lz4"
	}
	if o.ring == 0 {
		o.ring = defaultLog
	}
	return o
}

// Create makes an empty volume and opens it. What an earlier Create that was cut
// short has left is destroyed.
func Create(ctx context.Context, o Options) (*Store, error) {
	o = o.complete()
	sh := shape{size: o.Size, blockSize: o.BlockSize, ring: o.ring}
	err := sh.check()
	if err == nil {
		err = makeDatasets(ctx, o, sh)
	}
	if err != nil {
		return nil, fmt.Errorf("create volume %s: %w", o.Dataset, err)
	}
	return Open(ctx, o)
}

func makeDatasets(ctx context.Context, o Options, sh shape) error {
	switch state, err := stateOf(o.Dataset); {
	case err == nil && state == making:
		d := &zfs.Dataset{Name: o.Dataset}
		if err := d.Destroy(zfs.DestroyRecursive); err != nil {
			return failed("destroy what was not made whole", err)
		}
	case err == nil:
		return fmt.Errorf("the dataset exists, its %s is %q: destroy it, or take another name: %w", propState, state, store.ErrInUse)
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if _, err := zfs.CreateFilesystem(o.Dataset, map[string]string{
		"canmount": "off", "mountpoint": "none", "sync": "standard", "compression": o.Compression, propState: making,
	}); err != nil {
		return failed("make the dataset", err)
	}
	for name, v := range map[string]struct {
		size, blockSize uint64
		reserved        string
	}{
		"vol": {sh.size, uint64(sh.blockSize), "none"},
		"log": {logSize(sh.ring), logBlockSize, strconv.FormatUint(ringAt+sh.ring, 10)},
	} {
		if _, err := zfs.CreateVolume(o.Dataset+"/"+name, v.size, map[string]string{
			"volblocksize": strconv.FormatUint(v.blockSize, 10), "refreservation": v.reserved, "snapdev": "visible", "volmode": "dev",
		}); err != nil {
			return failed("make "+name, err)
		}
	}
	log, err := openDevice(ctx, o.Dataset+"/log", exclusive)
	if err != nil {
		return err
	}
	if err := errors.Join(format(log, sh), log.Close()); err != nil {
		return err
	}
	return failed("declare the dataset whole", (&zfs.Dataset{Name: o.Dataset}).SetProperty(propState, ready))
}

// logBlockSize is the log's volblocksize: what most records take, and ZFS writes
// without reading.
const logBlockSize = 8 << 10

// stateOf is the volume's state; ErrNotFound when there is no such dataset.
func stateOf(dataset string) (string, error) {
	parent := path.Dir(dataset)
	if parent == "." {
		return "", fmt.Errorf("%q is a pool, give a dataset below one: %w", dataset, block.ErrRange)
	}
	rows, err := run("list", "-Hp", "-d", "1", "-t", "filesystem", "-o", "name,"+propState, parent)
	if err != nil {
		return "", err
	}
	for _, row := range rows {
		if len(row) == 2 && row[0] == dataset {
			return row[1], nil
		}
	}
	return "", fmt.Errorf("no dataset %s: %w", dataset, store.ErrNotFound)
}

// Open opens a volume and brings it to where its log says that it is. ctx ends the
// wait for its devices.
func Open(ctx context.Context, o Options) (*Store, error) {
	m, err := openMachine(ctx, o.Dataset)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", o.Dataset, err)
	}
	return open(o.Dataset, m)
}

func openMachine(ctx context.Context, dataset string) (m machine, err error) {
	if err := checkWhole(dataset); err != nil {
		return m, err
	}
	// A process that ends lets go of its files last to first: log goes before vol.
	vol, err := openDevice(ctx, dataset+"/vol", exclusive)
	if err != nil {
		return m, err
	}
	log, err := openDevice(ctx, dataset+"/log", exclusive)
	if err == nil {
		err = log.moveAbove(vol)
	}
	if err != nil {
		_ = vol.Close()
		return m, err
	}
	return machine{vol: vol, log: log, node: &kernel{ctx: ctx, vol: dataset + "/vol"}}, nil
}

// checkWhole says why a volume cannot be opened.
func checkWhole(dataset string) error {
	rows, err := run("list", "-Hp", "-d", "1", "-t", "filesystem,volume", "-o", "name,sync,"+propState, dataset)
	if err != nil {
		if _, why := stateOf(dataset); errors.Is(why, store.ErrNotFound) {
			return why
		}
		return err
	}
	for _, row := range rows {
		switch {
		case row[1] != "standard":
			return fmt.Errorf("%s has sync=%s, which takes the order of log and content away: zfs set sync=standard %s: %w", row[0], row[1], row[0], store.ErrFormat)
		case row[0] == dataset && row[2] != ready:
			return fmt.Errorf("%s of %s is %q: %w", propState, dataset, row[2], store.ErrNotFound)
		}
	}
	return nil
}

// kernel is a node whose kernel has ZFS.
type kernel struct {
	ctx context.Context // ends waits
	vol string
}

// Snapshot implements node. go-zfs takes one without properties.
func (k *kernel) Snapshot(x taken) error {
	_, err := run("snapshot", "-o", propID+"="+strconv.FormatUint(x.id, 10), "-o", propSeq+"="+strconv.FormatUint(x.seq, 10), k.vol+"@"+x.name)
	return err
}

// Snapshots implements node. go-zfs lists none of their properties.
func (k *kernel) Snapshots() (out []taken, err error) {
	rows, err := run("list", "-Hp", "-d", "1", "-t", "snapshot", "-o", "name,"+propID+","+propSeq, k.vol)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		_, name, _ := strings.Cut(row[0], "@")
		id, err := strconv.ParseUint(row[1], 10, 64)
		if err != nil { // somebody else's
			continue
		}
		seq, _ := strconv.ParseUint(row[2], 10, 64) // for people
		out = append(out, taken{name: name, id: id, seq: seq})
	}
	return out, nil
}

// Rename implements node.
func (k *kernel) Rename(from, to string) error {
	return k.insist("rename snapshot "+from, func() error {
		_, err := run("rename", k.vol+"@"+from, k.vol+"@"+to)
		return err
	})
}

// Destroy implements node.
func (k *kernel) Destroy(name string) error {
	return k.insist("destroy snapshot "+name, func() error {
		return (&zfs.Dataset{Name: k.vol + "@" + name}).Destroy(zfs.DestroyDefault)
	})
}

// insist tries again for a while: udev opens each new device to look at it.
func (k *kernel) insist(what string, do func() error) error {
	ctx, stop := context.WithTimeout(k.ctx, patience)
	defer stop()
	var err error
	for again := true; again; again = wait(ctx) {
		if err = do(); err == nil {
			return nil
		}
	}
	return failed(what, err)
}

// OpenSnapshot implements node.
func (k *kernel) OpenSnapshot(name string) (device, error) {
	return openDevice(k.ctx, k.vol+"@"+name, readOnly)
}

// Resize implements node.
func (k *kernel) Resize(size uint64) error {
	return failed("resize", (&zfs.Dataset{Name: k.vol}).SetProperty("volsize", strconv.FormatUint(size, 10)))
}

// run is a zfs command that go-zfs has no call for; the answer is its rows.
func run(arg ...string) (rows [][]string, err error) {
	out, err := exec.Command("zfs", arg...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, failed("zfs "+strings.Join(arg, " "), err)
	}
	for line := range strings.Lines(string(out)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, nil
}

// failed is the error of a command of ZFS, which has no classes of its own.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", what, store.ErrIO, err)
}

// wait waits a little, and reports whether ctx goes on.
func wait(ctx context.Context) bool {
	t := time.NewTimer(50 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
