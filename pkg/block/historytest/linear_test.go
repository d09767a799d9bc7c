package historytest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// register is porcupine's model of a block: reads return the last write.
var register = porcupine.NondeterministicModel{
	Init: func() []any { return []any{uint64(0)} },
	Step: func(state, input, output any) []any {
		in := input.(access)
		switch {
		case in.kind == isWrite:
			return []any{in.value}
		case in.kind == mayWrite && in.value != state.(uint64):
			return []any{state, in.value}
		case in.kind == mayWrite || output.(uint64) == state.(uint64):
			return []any{state}
		}
		return nil
	},
}

// randomHistory is of a register that is right most of the time.
func randomHistory(rng *rand.Rand) (as []access) {
	value, clock := uint64(0), time.Duration(0)
	for i := range 3 + rng.IntN(9) {
		clock += time.Duration(rng.IntN(4))
		a := access{kind: accessKind(rng.IntN(3)), call: clock, ret: clock + 1 + time.Duration(rng.IntN(12))}
		switch {
		case a.kind == isRead && rng.IntN(4) == 0:
			a.value = uint64(rng.IntN(i + 1))
		case a.kind == isRead:
			a.value = value
		case rng.IntN(5) > 0:
			a.value = uint64(i)
		}
		if a.kind != isRead && rng.IntN(3) > 0 {
			value = a.value
		}
		if a.kind == mayWrite && rng.IntN(3) == 0 {
			a.ret = never
		}
		as = append(as, a)
	}
	return as
}

// TestAgainstPorcupine compares the checker with an independent one.
func TestAgainstPorcupine(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	verdicts := map[bool]int{}
	for range 30_000 {
		as := randomHistory(rng)
		var ops []porcupine.Operation
		for i, a := range as {
			// Calls come before returns of the same instant.
			ops = append(ops, porcupine.Operation{ClientId: i, Input: a, Call: int64(a.call), Output: a.value, Return: int64(a.ret)})
		}
		want := porcupine.CheckOperations(register.ToModel(), ops)
		if got, judged := linearizable(as, 200_000); got != want || !judged {
			t.Fatalf("linearizable: %v, porcupine says %v: %+v", got, want, as)
		}
		verdicts[want]++
	}
	if verdicts[true] < 3000 || verdicts[false] < 3000 {
		t.Fatalf("the histories are all alike: %v", verdicts)
	}
}
