package dhchap

import (
	"crypto/rand"
	"math/big"
	"sync"
)

type groupID uint8

// exponentBits is the size of secret exponents: more than twice the strength
// of the largest group here (RFC 7919, appendix A).
const exponentBits = 384

// shape of a group of RFC 7919: p = 2^b - 2^(b-64) + (floor(2^(b-130) e) + x) 2^64 - 1.
type shape struct {
	bits uint
	x    int64
}

var shapes = map[groupID]shape{1: {2048, 560316}, 2: {3072, 2625351}, 3: {4096, 5736041}}

// preferred groups of a controller, 0 being none: a group costs both sides a
// millisecond, and hides the secret from who listens and guesses.
var preferred = []groupID{1, 2, 3, 0}

var primes = map[groupID]func() *big.Int{
	1: sync.OnceValue(func() *big.Int { return prime(shapes[1]) }),
	2: sync.OnceValue(func() *big.Int { return prime(shapes[2]) }),
	3: sync.OnceValue(func() *big.Int { return prime(shapes[3]) }),
}

// prime computes a group's modulus.
func prime(s shape) *big.Int {
	// e as a fraction of 2^(b-130), summed with guard bits to spare.
	const guard = 64
	term := new(big.Int).Lsh(big.NewInt(1), s.bits-130+guard)
	e := new(big.Int)
	for k := int64(1); term.Sign() > 0; k++ {
		e.Add(e, term)
		term.Quo(term, big.NewInt(k))
	}
	e.Rsh(e, guard)
	e.Add(e, big.NewInt(s.x))
	p := new(big.Int).Lsh(big.NewInt(1), s.bits)
	p.Sub(p, new(big.Int).Lsh(big.NewInt(1), s.bits-64))
	p.Add(p, e.Lsh(e, 64))
	return p.Sub(p, big.NewInt(1))
}

// exchange is one side's part of a Diffie-Hellman exchange; nil is no group.
type exchange struct {
	p      *big.Int
	secret *big.Int
	public []byte
}

// newExchange returns nil for group 0.
func newExchange(id groupID) (*exchange, error) {
	if id == 0 {
		return nil, nil
	}
	p := primes[id]()
	secret, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), exponentBits))
	if err != nil {
		return nil, err
	}
	secret.SetBit(secret, exponentBits-1, 1)
	public := new(big.Int).Exp(big.NewInt(2), secret, p)
	return &exchange{p: p, secret: secret, public: public.FillBytes(make([]byte, size(p)))}, nil
}

func size(p *big.Int) int { return p.BitLen() / 8 }

// shared computes the shared secret; ok is false when the peer's value is none.
func (x *exchange) shared(peer []byte) (secret []byte, ok bool) {
	if x == nil {
		return nil, len(peer) == 0
	}
	y := new(big.Int).SetBytes(peer)
	most := new(big.Int).Sub(x.p, big.NewInt(2))
	if len(peer) != size(x.p) || y.Cmp(big.NewInt(2)) < 0 || y.Cmp(most) > 0 {
		return nil, false
	}
	return new(big.Int).Exp(y, x.secret, x.p).FillBytes(make([]byte, size(x.p))), true
}

func (x *exchange) value() []byte {
	if x == nil {
		return nil
	}
	return x.public
}
