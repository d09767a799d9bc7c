// Package dhchap is DH-HMAC-CHAP of NVM Express Base Specification 2.0, 8.13:
// the messages, and both sides of the authentication as state machines without
// socket, goroutine or clock. A Controller or Host belongs to one goroutine.
// The cryptography is the standard library's; the groups are ffdhe2048, 3072
// and 4096 of RFC 7919, and none. It imports nothing else.
//
// Messages, frozen, little endian; T_ID ties those of one authentication:
//
//	Negotiate   00 00 0 0 T_ID(2) SC_C NAPD, then per protocol 64 bytes:
//	            AUTHID 0 HALEN DHLEN, hashes(30), groups(30)
//	Challenge   01 01 0 0 T_ID(2) HL 0 HASHID DHGID DHVLEN(2) SEQNUM(4) CVAL(HL) DHV
//	Reply       01 02 0 0 T_ID(2) HL 0 CVALID 0 DHVLEN(2) SEQNUM(4) RVAL(HL) CVAL(HL) DHV
//	Success1    01 03 0 0 T_ID(2) HL 0 RVALID 0(7) RVAL(HL)
//	Success2    01 04 0 0 T_ID(2) 0(10)
//	Failure1/2  00 F0/F1 0 0 T_ID(2) 01 reason
//
// A response is HMAC(key, C | SEQNUM | T_ID | 00 | role | name | 00 | peer's name),
// where C is the challenge, or, with a group, HMAC(H(shared secret), challenge).
package dhchap

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
)

// Fields of Authentication Send and Receive, and the bound on a message.
const (
	SecurityProtocol = 0xe9
	MaxMessage       = 4096
)

var (
	// ErrSecret says that a secret is not of the form DHHC-1:NN:base64:.
	ErrSecret = errors.New("secret is not of the form DHHC-1:NN:…: (nvme gen-dhchap-key makes one)")
	// ErrFailed says that the peer did not prove that it knows the secret.
	ErrFailed = errors.New("authentication failed")
	// ErrMessage says that a message is malformed or out of turn.
	ErrMessage = errors.New("authentication message is malformed or out of turn")
)

// Names are the NQNs of the two sides.
type Names struct{ Host, Subsystem string }

// Secrets of a host, in the form that nvme gen-dhchap-key prints. With Controller
// the controller proves itself to a host that asks.
type Secrets struct{ Host, Controller string }

// String keeps them out of logs and errors.
func (Secrets) String() string { return "(secret)" }

// GoString is String.
func (s Secrets) GoString() string { return s.String() }

// Check is nil when both are of the form DHHC-1.
func (s Secrets) Check() error {
	_, host := key(s.Host, "")
	_, controller := key(s.Controller, "")
	return errors.Join(host, controller)
}

// NewSecrets makes secrets that nobody else knows, as nvme gen-dhchap-key does
// with --hmac=1.
func NewSecrets() (Secrets, error) {
	var s Secrets
	for _, into := range []*string{&s.Host, &s.Controller} {
		b := make([]byte, sha256.Size, sha256.Size+4)
		if _, err := rand.Read(b); err != nil {
			return Secrets{}, err
		}
		*into = "DHHC-1:01:" + base64.StdEncoding.EncodeToString(le.AppendUint32(b, crc32.ChecksumIEEE(b))) + ":"
	}
	return s, nil
}

type hashID uint8

var hashes = map[hashID]func() hash.Hash{1: sha256.New, 2: sha512.New384, 3: sha512.New}

const (
	authCommon, authDHCHAP = 0, 1

	msgNegotiate = 0x00
	msgChallenge = 0x01
	msgReply     = 0x02
	msgSuccess1  = 0x03
	msgSuccess2  = 0x04
	msgFailure1  = 0xf0
	msgFailure2  = 0xf1
)

// reason is why an authentication failed, as told to the peer.
type reason uint8

const (
	failed          reason = 1
	noProtocol      reason = 2
	noSecureChannel reason = 3
	noHash          reason = 4
	noGroup         reason = 5
	badPayload      reason = 6
	badMessage      reason = 7
)

var le = binary.LittleEndian

// key turns a secret into the HMAC key of the side with that name.
func key(secret, name string) ([]byte, error) {
	parts := strings.Split(secret, ":")
	if len(parts) != 4 || parts[0] != "DHHC-1" || len(parts[1]) != 2 || parts[1][0] != '0' || parts[1][1] > '3' || parts[1][1] < '0' || parts[3] != "" {
		return nil, ErrSecret
	}
	b, err := base64.StdEncoding.DecodeString(parts[2]) // which passes over newlines
	if err != nil || strings.ContainsAny(parts[2], "\r\n") || len(b) != 36 && len(b) != 52 && len(b) != 68 {
		return nil, ErrSecret
	}
	k := b[:len(b)-4]
	if le.Uint32(b[len(k):]) != crc32.ChecksumIEEE(k) {
		return nil, fmt.Errorf("%w: its checksum is wrong", ErrSecret)
	}
	if id := hashID(parts[1][1] - '0'); id != 0 {
		h := hmac.New(hashes[id], k)
		h.Write([]byte(name))
		h.Write([]byte("NVMe-over-Fabrics"))
		k = h.Sum(nil)
	}
	return k, nil
}

// proof is what goes into a response beside the key.
type proof struct {
	hash       func() hash.Hash
	challenge  []byte
	shared     []byte // of the group; nil without
	seq        uint32
	tid        uint16
	role       string
	name, peer string
}

func (p proof) response(key []byte) []byte {
	c := p.challenge
	if p.shared != nil {
		d := p.hash()
		d.Write(p.shared)
		h := hmac.New(p.hash, d.Sum(nil))
		h.Write(c)
		c = h.Sum(nil)
	}
	h := hmac.New(p.hash, key)
	h.Write(c)
	h.Write(le.AppendUint16(le.AppendUint32(nil, p.seq), p.tid))
	h.Write([]byte{0})
	h.Write([]byte(p.role))
	h.Write([]byte(p.name))
	h.Write([]byte{0})
	h.Write([]byte(p.peer))
	return h.Sum(nil)
}

// Roles within a response.
const (
	roleHost       = "HostHost"
	roleController = "Controller"
)
