//go:build conformance

package vmtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const variable = "CASK_CONFORMANCE_TARGET"

// Main is a test's TestMain: it runs the tests, or is the target of one that
// called Start: then it reads into settings and calls serve.
func Main(m *testing.M, settings any, serve func() error) {
	text := os.Getenv(variable)
	if text == "" {
		os.Exit(m.Run())
	}
	if err := json.Unmarshal([]byte(text), settings); err != nil {
		log.Fatal(err)
	}
	if err := serve(); err != nil {
		log.Fatal(err)
	}
}

// Obey has do carry out each line that Tell sends, until the test is gone.
func Obey(do func(word string, n uint64) error) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var word string
		var n uint64
		_, _ = fmt.Sscan(lines.Text(), &word, &n)
		if err := do(word, n); err != nil {
			log.Print(err)
		}
		fmt.Println("done", lines.Text())
	}
	os.Exit(0)
}

// Process is a target in a process of its own.
type Process struct {
	Addr string // where it listens

	t        *testing.T
	settings any
	cmd      *exec.Cmd
	stdin    io.Writer
	out      *bufio.Reader
}

// Start runs this program as a target with settings, which are read again at
// each Restart, and waits until it listens on addr.
func Start(t *testing.T, addr string, settings any) *Process {
	t.Helper()
	p := &Process{t: t, Addr: addr, settings: settings}
	t.Cleanup(p.Kill)
	p.Restart()
	return p
}

// Restart starts the process again after a Kill.
func (p *Process) Restart() {
	p.t.Helper()
	text, err := json.Marshal(p.settings)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), variable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.stdin, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for range 500 {
		if nc, err := net.Dial("tcp", p.Addr); err == nil {
			_ = nc.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.t.Fatalf("the target does not listen on %s", p.Addr)
}

// Tell sends a line and waits until it was obeyed.
func (p *Process) Tell(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Errorf("%s: %v", line, err)
		return
	}
	if answer, err := p.out.ReadString('\n'); err != nil || !strings.HasPrefix(answer, "done") {
		p.t.Errorf("%s: %q, %v", line, answer, err)
	}
}

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process as a crash would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// FreePort is an address nobody listens on.
func FreePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Port of a host:port.
func Port(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
