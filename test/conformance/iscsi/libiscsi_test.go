//go:build conformance

package iscsi

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
)

var only = flag.String("only", "", "run only tests with this in their name")

const (
	nodeName = "iqn.2026-01.storage.cask:conformance"
	patience = 30 * time.Second // for one test
)

// serve starts a target with a disk in memory and returns host:port.
func serve(t *testing.T, auth func(initiator, node string) (*target.Auth, error)) string {
	t.Helper()
	dev := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: 256 << 20}})
	tg, err := target.New(target.Config{Logf: t.Logf, Auth: auth})
	if err != nil {
		t.Fatal(err)
	}
	err = tg.AddNode(target.Node{Name: nodeName, Units: []target.Unit{{LUN: 0, Device: dev, UUID: [16]byte{1, 2, 3}}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- tg.Serve(context.Background(), ln) }() // owner: the test, by the Cleanup
	t.Cleanup(func() {
		if err := errors.Join(tg.Close(), <-done, dev.Close()); err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// judge skips the test when a program of the judges is missing.
func judge(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed: run hack/setup.sh", program)
	}
}

// expectation is one line of results.txt.
type expectation struct{ result, why string }

// expectations reads results.txt: RESULT TEST [REASON].
func expectations(t *testing.T) map[string]expectation {
	t.Helper()
	f, err := os.Open("results.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]expectation{}
	for s := bufio.NewScanner(f); s.Scan(); {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		result, rest, _ := strings.Cut(line, " ")
		name, why, _ := strings.Cut(strings.TrimSpace(rest), " ")
		out[name] = expectation{result, strings.TrimSpace(why)}
	}
	return out
}

// tests lists what iscsi-test-cu has.
func tests(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("iscsi-test-cu", "--list").CombinedOutput()
	if err != nil {
		t.Fatalf("iscsi-test-cu --list: %v\n%s", err, out)
	}
	var names []string
	for _, l := range strings.Fields(string(out)) {
		if strings.HasPrefix(l, "ALL.") && strings.Count(l, ".") == 2 && !slices.Contains(names, l) {
			names = append(names, l)
		}
	}
	return names
}

// runOne runs one test: PASS, SKIP, FAIL, TIMEOUT or CRASH, and what it printed.
func runOne(t *testing.T, name, addr string) (string, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	url := fmt.Sprintf("iscsi://%s/%s/0", addr, nodeName)
	args := []string{"-d", "-V", "--test=" + name, url}
	if strings.Contains(name, "Multipath") {
		args = append(args, url) // a second path
	}
	cmd := exec.CommandContext(ctx, "iscsi-test-cu", args...)
	b, err := cmd.CombinedOutput()
	out := string(b)
	switch {
	case ctx.Err() != nil:
		return "TIMEOUT", out
	case !summary.MatchString(out):
		return fmt.Sprintf("CRASH(%v)", err), out
	case summary.FindStringSubmatch(out)[1] != "0":
		return "FAIL", out
	case strings.Contains(out, "[SKIPPED]"):
		return "SKIP", out
	}
	return "PASS", out
}

// summary finds how many assertions of the one test failed.
var summary = regexp.MustCompile(`(?m)^ *asserts +\d+ +\d+ +\d+ +(\d+) `)

func TestLibiscsi(t *testing.T) {
	judge(t, "iscsi-test-cu")
	addr := serve(t, nil)
	want := expectations(t)
	counts := map[string]int{}
	for _, name := range tests(t) {
		if !strings.Contains(name, *only) {
			continue
		}
		t.Run(strings.TrimPrefix(name, "ALL."), func(t *testing.T) {
			started := time.Now()
			got, out := runOne(t, name, addr)
			counts[got]++
			w, known := want[name]
			if !known || got != w.result {
				t.Errorf("%s %s, results.txt says %q\n%s", got, name, w.result, out)
			}
			if got != "PASS" && w.why == "" {
				t.Errorf("%s %s, and results.txt gives no reason", got, name)
			}
			t.Logf("%s %s in %v", got, name, time.Since(started).Round(time.Millisecond))
		})
	}
	t.Logf("results: %v", counts)
}
