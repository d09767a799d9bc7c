//go:build cgo && linux

package dmu

/*
#include "shim.h"
#cgo noescape cask_read_start
#cgo nocallback cask_read_start
*/
import "C"

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cask-storage/cask/internal/procs"
)

// reads begins what several goroutines want to read at a time together. One that
// reads alone waits in C: to be woken takes longer.
type reads struct {
	mu    sync.Mutex
	next  []*read   // to be begun together
	busy  int       // reads that began and have not ended
	ended time.Time // the last one that did

	past, left atomic.Uint64 // how many were done, and how many were not, for tests
}

// read is of one goroutine.
type read struct {
	vol  *C.cask_vol
	off  uint64
	p    []byte
	pins runtime.Pinner
	done chan bool // has room; false: it was not done
	end  func(answer)
}

// reading is that of all stores.
var reading reads

var spareReads = sync.Pool{New: func() any {
	r := &read{done: make(chan bool, 1)}
	r.end = func(a answer) { r.done <- a.code == 0 }
	return r
}}

// soon is less than a host takes to ask for more once it has its answer: a read
// that begins so soon after another one ended does not come from there.
const soon = 30 * time.Microsecond

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
		g.begin()
	}
	ok := <-r.done
	r.pins.Unpin()
	r.p = nil
	spareReads.Put(r)
	g.mu.Lock()
	g.busy--
	g.ended = time.Now()
	g.mu.Unlock()
	if ok {
		g.past.Add(1)
	} else {
		g.left.Add(1)
	}
	return ok
}

// begin begins what waits for it.
func (g *reads) begin() {
	g.mu.Lock()
	batch := g.next
	g.next = nil
	stay := C.int(0)
	if g.busy == 1 && time.Since(g.ended) > soon {
		stay = 1
	}
	g.mu.Unlock()
	for some := range slices.Chunk(batch, maxReaders) {
		beginReads(some, stay)
	}
}

// beginReads begins at most maxReaders.
func beginReads(batch []*read, stay C.int) {
	var words [maxReaders][C.CASK_READ_WORDS]C.uint64_t
	var numbers [maxReaders]C.uint64_t
	for i, r := range batch {
		numbers[i] = calling.begin(r.end)
		words[i] = [...]C.uint64_t{
			C.uint64_t(uintptr(unsafe.Pointer(r.vol))), C.uint64_t(r.off), C.uint64_t(len(r.p)),
			C.uint64_t(uintptr(unsafe.Pointer(&r.p[0]))), numbers[i],
		}
	}
	procs.Hold(func() { C.cask_read_start(&words[0][0], C.uint64_t(len(batch)), stay) })
	for i := range batch {
		if code := words[i][4]; code != C.CASK_AWAY {
			calling.end(numbers[i], answer{code: C.int(code)})
		}
	}
}
