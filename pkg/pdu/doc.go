// Package pdu holds what codecs of PDUs with digests over a byte stream have
// in common: Batch gathers PDUs to be written with few system calls, Reader
// takes the data and the digest of one behind its header, and bounds what it
// reads by what the header said. What a PDU means is the codec's business.
//
// Neither allocates for a PDU. A Batch and a Reader belong to one goroutine.
package pdu

import (
	"errors"
	"hash/crc32"
)

// DigestSize is the size of a CRC32C, bytes.
const DigestSize = 4

// ErrDataDigest says that data arrived damaged; the stream stays usable.
var ErrDataDigest = errors.New("data digest does not match the data")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Sum adds b to a CRC32C; the sum of nothing is 0.
func Sum(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }
