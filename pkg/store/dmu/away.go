//go:build cgo && linux

package dmu

/*
#include "shim.h"
#cgo noescape cask_away_ended
#cgo nocallback cask_away_ended
*/
import "C"

import (
	"fmt"
	"os"
	"sync"
)

// calls are those that C was asked for and that no thread of Go's waits for: in C it
// would keep a processor of Go's, of which a replica has one or two.
type calls struct {
	mu   sync.Mutex
	last uint64
	away map[uint64]func(answer) // by number; they do not block
}

// answer is what became of a call.
type answer struct {
	code C.int
	done int // operations performed
}

// calling is that of all stores.
var calling = calls{away: map[uint64]func(answer){}}

// watchCalls has answers given, from the first store of the process on.
var watchCalls = sync.OnceValue(func() error {
	fd, err := C.cask_away_event()
	if fd < 0 {
		return fmt.Errorf("eventfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	go func() { // ends with the process
		var count [8]byte
		for {
			if _, err := f.Read(count[:]); err != nil {
				panic(fmt.Sprintf("eventfd of calls: %v", err))
			}
			calling.collect()
		}
	}()
	return nil
})

// begin returns the number of a call, of whose end then is told.
func (g *calls) begin(then func(answer)) C.uint64_t {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last++
	g.away[g.last] = then
	return C.uint64_t(g.last)
}

func (g *calls) end(number C.uint64_t, a answer) {
	g.mu.Lock()
	then := g.away[uint64(number)]
	delete(g.away, uint64(number))
	g.mu.Unlock()
	then(a)
}

// collect ends what has ended in C.
func (g *calls) collect() {
	var ended [64][C.CASK_AWAY_WORDS]C.uint64_t
	for {
		n := int(C.cask_away_ended(&ended[0][0], C.uint64_t(len(ended))))
		for _, w := range ended[:n] {
			g.end(w[0], answer{C.int(w[1]), int(w[2])})
		}
		if n < len(ended) {
			return
		}
	}
}
