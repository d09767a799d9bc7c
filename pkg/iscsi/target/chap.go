package target

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cask-storage/cask/pkg/iscsi"
)

// maxChallenge is the longest CHAP challenge or response taken, bytes (RFC
// 7143 12.1.3).
const maxChallenge = 1024

// chapHashes are the CHAP algorithms, by number, best first in chapOrder.
var chapHashes = map[string]func([]byte) []byte{
	"5": func(b []byte) []byte { s := md5.Sum(b); return s[:] },
	"6": func(b []byte) []byte { s := sha1.Sum(b); return s[:] },
	"7": func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
	"8": func(b []byte) []byte { s := sha3.Sum256(b); return s[:] },
}

// chap is the exchange of one login, after the method was agreed on.
type chap struct {
	auth      *Auth
	hash      func([]byte) []byte
	id        byte
	challenge []byte
	proven    bool
}

// errChap is the class of failed authentications; its text is for our log.
type errChap string

func (e errChap) Error() string { return "CHAP: " + string(e) }

// choose picks the algorithm, in the order the initiator prefers, and makes
// the challenge out of random.
func (c *chap) choose(offered string, random []byte) (iscsi.Text, error) {
	for _, a := range strings.Split(offered, ",") {
		if h := chapHashes[a]; h != nil {
			c.hash, c.id, c.challenge = h, random[0], random[1:]
			return iscsi.Text{{Key: "CHAP_A", Value: a}, {Key: "CHAP_I", Value: fmt.Sprint(c.id)},
				{Key: "CHAP_C", Value: "0x" + hex.EncodeToString(c.challenge)}}, nil
		}
	}
	return nil, errChap("no algorithm in common: " + offered)
}

// answer checks the initiator's response, and proves the target to an
// initiator that asks.
func (c *chap) answer(in iscsi.Text) (iscsi.Text, error) {
	name, _ := in.Get("CHAP_N")
	text, _ := in.Get("CHAP_R")
	got, err := decodeBinary(text)
	if err != nil {
		return nil, err
	}
	want := c.respond(c.id, c.auth.Secret, c.challenge)
	if subtle.ConstantTimeCompare([]byte(name), []byte(c.auth.User))&subtle.ConstantTimeCompare(got, want) != 1 {
		return nil, errChap("wrong name or response")
	}
	c.proven = true
	id, asks := in.Get("CHAP_I")
	if !asks {
		return nil, nil
	}
	return c.prove(id, in)
}

// prove answers the initiator's own challenge.
func (c *chap) prove(id string, in iscsi.Text) (iscsi.Text, error) {
	var n uint8
	if _, err := fmt.Sscanf(id, "%d", &n); err != nil {
		return nil, errChap("CHAP_I is no number from 0 to 255")
	}
	text, _ := in.Get("CHAP_C")
	challenge, err := decodeBinary(text)
	switch {
	case err != nil:
		return nil, err
	case len(challenge) == 0 || bytes.Equal(challenge, c.challenge):
		return nil, errChap("the initiator's challenge is empty or our own")
	case c.auth.MutualSecret == "":
		return nil, errChap("the initiator asks for proof, and there is no mutual secret")
	}
	r := c.respond(n, c.auth.MutualSecret, challenge)
	return iscsi.Text{{Key: "CHAP_N", Value: c.auth.MutualUser}, {Key: "CHAP_R", Value: "0x" + hex.EncodeToString(r)}}, nil
}

func (c *chap) respond(id byte, secret string, challenge []byte) []byte {
	b := append([]byte{id}, secret...)
	return c.hash(append(b, challenge...))
}

// decodeBinary reads a large binary value: 0x hexadecimal or 0b base64.
func decodeBinary(s string) ([]byte, error) {
	if len(s) < 2 || len(s) > 2+2*maxChallenge {
		return nil, errChap("a binary value has a wrong length")
	}
	var b []byte
	var err error
	switch s[:2] {
	case "0x", "0X":
		b, err = hex.DecodeString(s[2:])
	case "0b", "0B":
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		return nil, errChap("a binary value is neither 0x nor 0b")
	}
	if err != nil || len(b) > maxChallenge {
		return nil, errChap("a binary value is not well formed")
	}
	return b, nil
}
