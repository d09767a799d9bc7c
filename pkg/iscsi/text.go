package iscsi

import (
	"bytes"
	"errors"
	"fmt"
)

// Bounds on text (RFC 7143 6.1).
const (
	maxKey   = 63
	maxValue = 8192
	maxPairs = 128
)

// ErrText says that a text segment is not a list of key=value pairs.
var ErrText = errors.New("iSCSI: text is malformed")

// Pair is one text key with its value.
type Pair struct{ Key, Value string }

// Text is an ordered list of keys, as one side sent them.
type Text []Pair

// ParseText reads the data of login and text PDUs.
func ParseText(b []byte) (Text, error) {
	var t Text
	for len(b) > 0 {
		one, rest, _ := bytes.Cut(b, []byte{0})
		b = rest
		if len(one) == 0 {
			continue // padding
		}
		key, value, ok := bytes.Cut(one, []byte{'='})
		if !ok || len(key) == 0 || len(key) > maxKey || len(value) > maxValue {
			return nil, fmt.Errorf("%w: a key of %d bytes with a value of %d", ErrText, len(key), len(value))
		}
		if len(t) == maxPairs {
			return nil, fmt.Errorf("%w: more than %d keys", ErrText, maxPairs)
		}
		t = append(t, Pair{Key: string(key), Value: string(value)})
	}
	return t, nil
}

// Get is the value of a key.
func (t Text) Get(key string) (string, bool) {
	for _, p := range t {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}

// Add appends a pair.
func (t *Text) Add(key, value string) { *t = append(*t, Pair{key, value}) }

// Append encodes t at the end of b.
func (t Text) Append(b []byte) []byte {
	for _, p := range t {
		b = append(b, p.Key...)
		b = append(b, '=')
		b = append(b, p.Value...)
		b = append(b, 0)
	}
	return b
}
