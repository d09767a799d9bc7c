// Package sanity holds the tests of the driver as a whole: csi-sanity, and the
// life of volumes on a real host, over real NVMe/TCP targets in memory, attach
// processes, FUSE, loop devices and file systems. It has no other code.
package sanity
