package attack

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	inside    = "CASK_ATTACK_DIR" // in the environment of the inner process
	dirPrefix = "cask-attack-"
)

// The main goroutine keeps the main thread: the inner process is to die with
// it.
func init() { runtime.LockOSThread() }

// TestMain runs the tests again in namespaces of their own.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv(inside) != "" {
		if err := settle(); err != nil {
			log.Fatal(err)
		}
		os.Exit(m.Run())
	}
	if os.Getuid() != 0 {
		log.Print("skipped: network namespaces and TUN devices need root")
		os.Exit(0)
	}
	janitor()
	code, err := enter()
	if err != nil {
		log.Fatal(err)
	}
	os.Exit(code)
}

// enter runs this program as the first process of new namespaces.
func enter() (int, error) {
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	lock, err := lockDir(dir)
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// settle makes /proc show the processes of the new namespace.
func settle() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	return f, err
}

// janitor removes the directories of runs that were killed.
func janitor() {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		log.Print(err)
	}
	for _, d := range dirs {
		if f, err := lockDir(d); err == nil {
			err = os.RemoveAll(d)
			log.Printf("removed %s of a run that was killed: %v", d, err)
			f.Close()
		}
	}
}

// workDir is the run's directory; it goes when the run ends.
func workDir() string { return os.Getenv(inside) }
