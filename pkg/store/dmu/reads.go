//go:build cgo && linux

package dmu

/*
#include "shim.h"
#cgo noescape cask_read_start
#cgo nocallback cask_read_start
#cgo noescape cask_read_done
#cgo nocallback cask_read_done
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/cask-storage/cask/internal/procs"
)

// reads starts what several goroutines want to read at a time together. None of
// them waits in C, where each would keep a processor of Go's. One that reads
// alone does: to be woken takes longer.
type reads struct {
	mu    sync.Mutex
	next  []*read          // to be started together
	away  map[uint64]*read // by number
	last  uint64           // number
	busy  int              // reads that began and have not ended
	ended time.Time        // the last one that did

	past, left uint64 // how many were done, and how many failed
}

// read is of one goroutine.
type read struct {
	vol  *C.cask_vol
	off  uint64
	p    []byte
	pins runtime.Pinner
	done chan bool // has room; false: it failed
}

// reading is that of all stores.
var reading = reads{away: map[uint64]*read{}}

var spareReads = sync.Pool{New: func() any { return &read{done: make(chan bool, 1)} }}

// soon is less than a host takes to ask for more once it has its answer: a read
// that begins so soon after another one ended does not come from there.
const soon = 30 * time.Microsecond

// watchReads has reads that C has done told to who waits for them, from the first
// one of the process on.
var watchReads = sync.OnceValue(func() error {
	fd, err := C.cask_read_event()
	if fd < 0 {
		return fmt.Errorf("eventfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	go func() { // ends with the process
		var count [8]byte
		for {
			if _, err := f.Read(count[:]); err != nil {
				panic(fmt.Sprintf("eventfd of reads: %v", err))
			}
			reading.collect()
		}
	}()
	return nil
})

// do fills p, which is not empty, from byte off of vol on. If it returns false it did
// not, and C.cask_read is to be tried.
func (g *reads) do(vol *C.cask_vol, p []byte, off uint64) bool {
	r := spareReads.Get().(*read)
	r.vol, r.off, r.p = vol, off, p
	r.pins.Pin(&p[0])
	g.mu.Lock()
	g.next = append(g.next, r)
	g.busy++
	first := len(g.next) == 1
	g.mu.Unlock()
	if first {
		runtime.Gosched() // who is about to read as well comes along
		g.start()
	}
	ok := <-r.done
	r.pins.Unpin()
	r.p = nil
	spareReads.Put(r)
	g.mu.Lock()
	g.busy--
	g.ended = time.Now()
	g.mu.Unlock()
	return ok
}

// start starts what waits.
func (g *reads) start() {
	g.mu.Lock()
	batch := g.next
	g.next = nil
	alone := g.busy == 1 && time.Since(g.ended) > soon
	g.mu.Unlock()
	if watchReads() != nil {
		for _, r := range batch {
			r.done <- false
		}
		return
	}
	for some := range slices.Chunk(batch, maxReaders) {
		g.startSome(some, alone)
	}
}

// startSome starts at most maxReaders.
func (g *reads) startSome(batch []*read, alone bool) {
	var words [maxReaders][C.CASK_READ_WORDS]C.uint64_t
	numbers := [maxReaders]uint64{}
	stay := C.int(0)
	if alone {
		stay = 1
	}
	g.mu.Lock()
	for i, r := range batch {
		g.last++
		g.away[g.last], numbers[i] = r, g.last
		words[i] = [...]C.uint64_t{
			C.uint64_t(uintptr(unsafe.Pointer(r.vol))), C.uint64_t(r.off), C.uint64_t(len(r.p)),
			C.uint64_t(uintptr(unsafe.Pointer(&r.p[0]))), C.uint64_t(g.last),
		}
	}
	g.mu.Unlock()
	procs.Hold(func() { C.cask_read_start(&words[0][0], C.uint64_t(len(batch)), stay) })
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range batch {
		if answer := words[i][4]; answer != C.CASK_READ_AWAY {
			g.end(numbers[i], answer)
		}
	}
}

// collect ends what C has done.
func (g *reads) collect() {
	var pairs [64][2]C.uint64_t
	for {
		n := int(C.cask_read_done(&pairs[0][0], C.uint64_t(len(pairs))))
		g.mu.Lock()
		for _, p := range pairs[:n] {
			g.end(uint64(p[0]), p[1])
		}
		g.mu.Unlock()
		if n < len(pairs) {
			return
		}
	}
}

// end is called with mu held.
func (g *reads) end(number uint64, answer C.uint64_t) {
	r := g.away[number]
	delete(g.away, number)
	ok := answer == C.CASK_READ_DONE
	if ok {
		g.past++
	} else {
		g.left++
	}
	r.done <- ok
}
