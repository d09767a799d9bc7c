package attack

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

const restartAfter = 200 * time.Millisecond

// process is a program kept running in a node, until it is told otherwise.
type process struct {
	name string
	node *node
	args []string
	log  string // its file

	mu       sync.Mutex
	cmd      *exec.Cmd // nil while it does not run
	wanted   bool
	stopped  bool // by SIGSTOP
	excused  bool // it may end by itself
	starts   int
	surprise []string // ends that nobody asked for
	wake     chan struct{}
}

func newProcess(n *node, log string, args ...string) *process {
	return &process{name: n.name, node: n, args: args, log: log, wake: make(chan struct{}, 1)}
}

// keep starts the process whenever it is wanted and does not run, until quit.
func (p *process) keep(quit <-chan struct{}) {
	for {
		select {
		case <-quit:
			return
		case <-p.wake:
		}
		for p.isWanted() {
			if err := p.once(); err != nil {
				p.surprised(err.Error())
			}
			time.Sleep(restartAfter)
		}
	}
}

func (p *process) once() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	p.mu.Lock()
	if !p.wanted {
		p.mu.Unlock()
		return nil
	}
	p.node.in(func() { err = cmd.Start() })
	if err == nil {
		p.cmd = cmd
		p.starts++
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	err = cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	killed := p.cmd == nil
	p.cmd, p.stopped = nil, false
	if !killed && !p.excused {
		return fmt.Errorf("ended by itself: %v", err) //nolint:errorlint // for people
	}
	return nil
}

func (p *process) surprised(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.surprise = append(p.surprise, fmt.Sprintf("%s %s", p.name, text))
}

func (p *process) isWanted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted
}

func (p *process) runs() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// start has the process run.
func (p *process) start() {
	p.mu.Lock()
	p.wanted = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// excuse lets the process end by itself until the round is over.
func (p *process) excuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.excused = true
}

// retire lets the process run until it ends by itself; it is not started again.
func (p *process) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted, p.excused = false, true
}

// kill ends the process at once; it is not started again before start.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = false
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		p.cmd = nil // the end is expected
	}
}

func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
		p.stopped = s == syscall.SIGSTOP
	}
}

// quit ends the process in good order and waits for it.
func (p *process) quit(t *testing.T) {
	t.Helper()
	p.retire()
	p.signal(syscall.SIGTERM)
	eventually(t, 30*time.Second, p.name+" has not ended after SIGTERM", func() bool { return !p.runs() })
}

// roundOver returns the ends that nobody asked for; from now on none is excused.
func (p *process) roundOver() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.surprise
	p.surprise, p.excused = nil, false
	return s
}

// eventually waits until f holds.
func eventually(t *testing.T, within time.Duration, otherwise string, f func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !f() {
		if time.Since(start) > within {
			t.Fatalf("%s within %v", otherwise, within)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}
