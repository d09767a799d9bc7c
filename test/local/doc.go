// Package local attacks a volume that runs as local processes, on the real
// engine: processes are killed at random under a load that verifies every
// read.
package local
