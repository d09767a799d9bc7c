//go:build cgo && linux && caskzfs

package dmu

// ZFS as hack/zfs.sh compiles it.

// #cgo CFLAGS: -DCASK_ZFS_RELEASE
// #cgo LDFLAGS: -lcask-zpool -lzfs_core -lnvpair -llz4 -ltirpc -lz -ldl -lrt -lm -lpthread
import "C"
