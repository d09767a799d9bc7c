package ioc_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/ioc"
	"github.com/cask-storage/cask/pkg/ioc/ioctest"
)

func config(dir string) ioc.FileConfig {
	return ioc.FileConfig{Dir: dir, Pool: "default", Node: "n1", FirstUse: true, Limits: ioc.DefaultLimits}
}

func openFile(t *testing.T, cfg ioc.FileConfig) *ioc.FileEngine {
	t.Helper()
	e, err := ioc.OpenFile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

// serve runs a server for the length of the test.
func serve(t *testing.T, e ioc.Engine) ioc.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), ioc.SocketName)
	l, err := ioc.Listen(socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- ioc.Serve(ctx, l, ioc.NewHandler(e)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return ioc.Client{Socket: socket}
}

func TestFileEngine(t *testing.T) {
	ioctest.Run(t, func(t *testing.T) ioc.Engine { return openFile(t, config(t.TempDir())) })
}

func TestClientServer(t *testing.T) {
	ioctest.Run(t, func(t *testing.T) ioc.Engine { return serve(t, openFile(t, config(t.TempDir()))) })
}

func TestGate(t *testing.T) {
	ioctest.Run(t, func(t *testing.T) ioc.Engine {
		g := new(ioc.Gate)
		g.Admit(openFile(t, config(t.TempDir())))
		return g
	})
	g := new(ioc.Gate)
	c := serve(t, g)
	if _, err := c.Status(t.Context()); !errors.Is(err, ioc.ErrUnavailable) {
		t.Fatalf("before it was opened: %v", err)
	}
	_, refused := ioc.OpenFile(t.Context(), ioc.FileConfig{Dir: t.TempDir(), Pool: "p", Node: "n"})
	g.Refuse(refused)
	_, err := c.Create(t.Context(), "a", 4096)
	if !errors.Is(err, ioc.ErrForeign) || err.Error() != refused.Error() {
		t.Fatalf("over the wire: %v\nwant: %v", err, refused)
	}
}

func TestClientWithoutServer(t *testing.T) {
	c := ioc.Client{Socket: filepath.Join(t.TempDir(), "none")}
	if _, err := c.Open(t.Context(), "a"); !errors.Is(err, ioc.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
}

// TestClientPeers answers the client with what no server of ours would.
func TestClientPeers(t *testing.T) {
	for name, answer := range map[string]string{
		"garbage":   "hello\r\n\r\n",
		"path":      "HTTP/1.1 200 OK\r\nContent-Length: 42\r\n\r\n" + `{"name":"a","path":"../../etc/shadow"    }`,
		"not JSON":  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"no code":   "HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}",
		"text only": "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone",
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() { // ends with the listener
				if c, err := l.Accept(); err == nil {
					c.Read(make([]byte, 4096))
					c.Write([]byte(answer))
					c.Close()
				}
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err = ioc.Client{Socket: socket}.Open(ctx, "a")
			if code := ioc.CodeOf(err); code != ioc.CodeProtocol && code != ioc.CodeUnavailable {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// TestSilentConnections: connections that say nothing take slots, and give them
// back when they end.
func TestSilentConnections(t *testing.T) {
	c := serve(t, openFile(t, config(t.TempDir())))
	var silent []net.Conn
	for range 80 {
		conn, err := net.Dial("unix", c.Socket)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	for _, conn := range silent {
		conn.Close()
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 2 {
		l, err := ioc.Listen(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatalf("%v %v", info, err)
	}
}

func TestHealth(t *testing.T) {
	g := new(ioc.Gate)
	cfg := config(t.TempDir())
	h := ioc.NewHealthHandler(g, cfg)
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	if w := get("/readyz"); w.Code != 503 || get("/healthz").Code != 200 {
		t.Fatalf("before it was opened: %d %s", w.Code, w.Body)
	}
	g.Admit(openFile(t, cfg))
	if w := get("/readyz"); w.Code != 200 {
		t.Fatalf("opened: %d %s", w.Code, w.Body)
	}
	if w := get("/metrics"); !strings.Contains(w.Body.String(), `cask_ioc_ready{pool="default",node="n1"} 1`) {
		t.Fatalf("metrics:\n%s", w.Body)
	}
}
