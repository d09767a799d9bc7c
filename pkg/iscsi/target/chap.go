package target

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/cask-storage/cask/pkg/iscsi"
)

// chap is the exchange of one login, after the method was agreed on.
type chap struct {
	auth      *Auth
	algorithm string
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
		if iscsi.KnownCHAP(a) {
			c.algorithm, c.id, c.challenge = a, random[0], random[1:]
			return iscsi.Text{{Key: "CHAP_A", Value: a}, {Key: "CHAP_I", Value: fmt.Sprint(c.id)},
				{Key: "CHAP_C", Value: iscsi.EncodeBinary(c.challenge)}}, nil
		}
	}
	return nil, errChap("no algorithm in common: " + offered)
}

// answer checks the initiator's response, and proves the target to an
// initiator that asks.
func (c *chap) answer(in iscsi.Text) (iscsi.Text, error) {
	name, _ := in.Get("CHAP_N")
	text, _ := in.Get("CHAP_R")
	got, err := iscsi.DecodeBinary(text)
	if err != nil {
		return nil, err
	}
	want := iscsi.CHAP{Algorithm: c.algorithm, ID: c.id, Challenge: c.challenge}.Respond(c.auth.Secret)
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
	n, ok := numeric(id, 0, 255)
	if !ok {
		return nil, errChap("CHAP_I is no number from 0 to 255")
	}
	text, _ := in.Get("CHAP_C")
	challenge, err := iscsi.DecodeBinary(text)
	switch {
	case err != nil:
		return nil, err
	case len(challenge) == 0 || bytes.Equal(challenge, c.challenge):
		return nil, errChap("the initiator's challenge is empty or our own")
	case c.auth.MutualSecret == "":
		return nil, errChap("the initiator asks for proof, and there is no mutual secret")
	case c.auth.MutualSecret == c.auth.Secret:
		// RFC 7143 9.2.1: else the initiator's own answer, to who pretends to be
		// this target, would be that proof.
		return nil, errChap("the secrets of both directions must differ")
	}
	r := iscsi.CHAP{Algorithm: c.algorithm, ID: byte(n), Challenge: challenge}.Respond(c.auth.MutualSecret)
	return iscsi.Text{{Key: "CHAP_N", Value: c.auth.MutualUser}, {Key: "CHAP_R", Value: iscsi.EncodeBinary(r)}}, nil
}
