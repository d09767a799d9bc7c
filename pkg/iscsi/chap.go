package iscsi

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/hex"
	"errors"
)

// maxBinary is the longest CHAP challenge or response taken, bytes (RFC 7143
// 12.1.3).
const maxBinary = 1024

// ErrBinary says that the value of a key is no binary value.
var ErrBinary = errors.New("iSCSI: a binary value is not well formed")

// CHAPAlgorithms are the algorithms to offer, best first: SHA3-256, SHA-256,
// SHA-1, MD5. Frozen.
const CHAPAlgorithms = "8,7,6,5"

var chapHashes = map[string]func([]byte) []byte{
	"5": func(b []byte) []byte { s := md5.Sum(b); return s[:] },
	"6": func(b []byte) []byte { s := sha1.Sum(b); return s[:] },
	"7": func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
	"8": func(b []byte) []byte { s := sha3.Sum256(b); return s[:] },
}

// KnownCHAP reports whether an algorithm can be used.
func KnownCHAP(algorithm string) bool { return chapHashes[algorithm] != nil }

// CHAP is a challenge (RFC 1994). Algorithm must be known.
type CHAP struct {
	Algorithm string
	ID        byte
	Challenge []byte
}

// Respond is what who knows the secret answers.
func (c CHAP) Respond(secret string) []byte {
	b := append([]byte{c.ID}, secret...)
	return chapHashes[c.Algorithm](append(b, c.Challenge...))
}

// EncodeBinary makes the value of a key.
func EncodeBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// DecodeBinary reads a large binary value: 0x hexadecimal or 0b base64.
func DecodeBinary(s string) ([]byte, error) {
	if len(s) < 2 || len(s) > 2+2*maxBinary {
		return nil, ErrBinary
	}
	var b []byte
	var err error
	switch s[:2] {
	case "0x", "0X":
		b, err = hex.DecodeString(s[2:])
	case "0b", "0B":
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		return nil, ErrBinary
	}
	if err != nil || len(b) > maxBinary {
		return nil, ErrBinary
	}
	return b, nil
}
