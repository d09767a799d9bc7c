package main

import (
	"context"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/ioc"
)

func TestParse(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	for _, args := range [][]string{
		{}, {"--pool=p"}, {"--node=n"}, {"--pool=p", "--node=n", "more"}, {"--pool=p", "--node=n", "--owner=root"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
	t.Setenv("NODE_NAME", "n1")
	o, err := parse([]string{"--pool=p", "--pool-dir=/pool"})
	if err != nil || o.files.Node != "n1" || o.socket != "/pool/ioc.sock" || *o.files.Owner != (ioc.Owner{UID: 65532, GID: 65532}) {
		t.Fatalf("%+v %v", o, err)
	}
	o, err = parse([]string{"--pool=p", "--standalone", "--dir=/x"})
	if err != nil || o.files.Owner != nil || o.files.Limits != ioc.DefaultLimits || o.files.Dir != "/x" {
		t.Fatalf("%+v %v", o, err)
	}
}

// TestStandalone serves, and ends when told to.
func TestStandalone(t *testing.T) {
	dir := t.TempDir()
	o, err := parse([]string{"--pool=p", "--node=n", "--standalone", "--dir=" + dir, "--health=127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, o) }()
	c := ioc.Client{Socket: o.socket}
	for {
		if _, err = c.Status(t.Context()); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if _, err := c.Create(t.Context(), "a", 4096); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
