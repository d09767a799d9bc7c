package target_test

import (
	"net"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/accept/accepttest"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// TestIdleMemory: what a queue that does nothing costs.
func TestIdleMemory(t *testing.T) {
	const n = 60
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{Queues: n}})
	a, id := admin(t, addr, tcp.IC{})
	defer a.nc.Close()
	accepttest.Idle(t, n, 192<<10, func(i int) net.Conn {
		w := dial(t, addr)
		w.init(tcp.IC{})
		cqe, _ := w.do(connectCommand(nvme.ConnectParams{QID: nvme.QID(i + 1), QueueDepth: 32}), connectData(id).Append(nil))
		w.ok(cqe)
		return w.nc
	})
}

// TestStrangers: ten thousand connections that say nothing, half of something,
// or lie about a length cost bounded memory, and a host still gets in.
func TestStrangers(t *testing.T) {
	const most = 256
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{Connections: most}})
	ic := tcp.IC{}.Append(nil, tcp.TypeICReq)
	long := slices.Clone(ic)
	long[6], long[7] = 0xff, 0x7f // PLEN of 2 GiB
	accepttest.Flood{Addr: addr, Openings: [][]byte{nil, ic[:20], ic, long, []byte("GET / HTTP/1.1\r\n\r\n")},
		PerConn: 64 << 10, Most: most + most/4 + 1}.Run(t)
	w, _ := admin(t, addr, tcp.IC{})
	w.nc.Close()
}
