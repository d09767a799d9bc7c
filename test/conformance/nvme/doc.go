// Package nvme judges the NVMe/TCP target from outside: Debian's kernel with
// nvme-cli in a VM, tshark, and tgtd beside it. Its tests have the build tag
// conformance and are run by make vm-nvme (about ten minutes) and make
// bench-nvme (about two): too slow for every change.
package nvme
