// Command forward makes one TCP address inside a network namespace reachable
// on the loopback of the namespace it is started in, so that kubectl on the
// machine reaches a lab cluster whose addresses exist in namespaces only.
//
//	forward NETNS-FILE LISTEN-ADDRESS DIAL-ADDRESS
//
// It listens first, then runs itself again inside the namespace with the
// listener as file descriptor 3: a socket stays in the namespace it was made in.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// inside marks the second start, in place of the namespace's file.
const inside = "-inside"

// maxConnections bounds how many connections are carried at once.
const maxConnections = 1024

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: forward NETNS-FILE LISTEN-ADDRESS DIAL-ADDRESS")
		os.Exit(2)
	}
	run := enter
	if os.Args[1] == inside {
		run = carryAll
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "forward:", err)
		os.Exit(1)
	}
}

// enter listens here and replaces this process by one inside the namespace.
func enter(namespace, listen, dial string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	if err := syscall.Dup3(int(file.Fd()), 3, 0); err != nil {
		return fmt.Errorf("passing the listener on: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	arguments := []string{"nsenter", "--net=" + namespace, self, inside, listen, dial}
	return syscall.Exec("/usr/bin/nsenter", arguments, os.Environ())
}

// carryAll accepts on file descriptor 3 until accepting fails.
func carryAll(_, _, dial string) error {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	var carriers sync.WaitGroup
	defer carriers.Wait()
	places := make(chan struct{}, maxConnections)
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		places <- struct{}{}
		carriers.Go(func() {
			carry(client, dial)
			<-places
		})
	}
}

// carry copies both ways until both directions have ended.
func carry(client net.Conn, dial string) {
	defer client.Close()
	server, err := net.Dial("tcp", dial)
	if err != nil {
		fmt.Fprintln(os.Stderr, "forward:", err)
		return
	}
	defer server.Close()
	var back sync.WaitGroup
	back.Go(func() { copyAndClose(client, server) })
	copyAndClose(server, client)
	back.Wait()
}

// copyAndClose copies to the end of from, then tells to that no more comes.
func copyAndClose(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.(*net.TCPConn).CloseWrite()
}
