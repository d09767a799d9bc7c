//go:build !linux

package host

import "net"

func setUserTimeout(net.Conn) {}
