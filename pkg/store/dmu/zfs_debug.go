//go:build cgo && linux && !caskzfs

package dmu

// The distribution's ZFS, with assertions.

// #cgo LDFLAGS: -lzpool -lzfs_core -lnvpair -llz4 -ltirpc -lz -ldl -lrt -lm -lpthread
import "C"
