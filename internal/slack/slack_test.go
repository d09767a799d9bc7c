package slack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const env = "CASK_TEST_SLACK"

func TestMain(m *testing.M) {
	if os.Getenv(env) == "" {
		os.Exit(m.Run())
	}
	Set(Go)
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	threads, _ := filepath.Glob("/proc/self/task/*")
	fmt.Println(os.Getpid(), len(threads), os.Args[1:])
	fmt.Println(now, err)
	for _, t := range threads {
		b, err := os.ReadFile("/proc/" + filepath.Base(t) + "/timerslack_ns")
		if errors.Is(err, syscall.EPERM) { // of another thread: root alone may know
			continue
		}
		fmt.Println(strings.TrimSpace(string(b)), err)
	}
}

// A process is the same one afterwards, and its threads all sleep longer.
func TestSet(t *testing.T) {
	cmd := exec.Command(os.Args[0], "an argument", "--another")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var pid, threads int
	if _, err := fmt.Sscan(lines[0], &pid, &threads); err != nil || pid != cmd.Process.Pid || !strings.HasSuffix(lines[0], "[an argument --another]") {
		t.Errorf("%q, %v; the process is %d", lines[0], err, cmd.Process.Pid)
	}
	if threads < 2 || len(lines) < 2 {
		t.Errorf("%d threads: %q", threads, lines)
	}
	for _, l := range lines[1:] {
		if l != fmt.Sprint(Go.Nanoseconds(), " <nil>") {
			t.Errorf("a thread's slack is %s, wanted is %v", l, Go)
		}
	}
}
