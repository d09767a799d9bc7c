package historytest

import (
	"testing"
	"time"
)

// at makes times of small numbers.
func at(ts ...time.Duration) []time.Duration { return ts }

func write(value uint64, ret time.Duration, calls ...time.Duration) Access {
	return Access{Write: true, Value: value, Calls: calls, Ret: ret}
}

func read(value uint64, call, ret time.Duration) Access {
	return Access{Value: value, Calls: at(call), Ret: ret}
}

func stable(a Access) Access {
	a.FUA = true
	return a
}

func TestLinearizable(t *testing.T) {
	for name, c := range map[string]struct {
		ok bool
		h  []Access
	}{
		"a read of what was written":                {true, []Access{write(1, 2, 1), read(1, 3, 4)}},
		"a read of what was there":                  {true, []Access{read(0, 1, 2), write(1, 4, 3)}},
		"an acknowledged write is lost":             {false, []Access{write(1, 2, 1), read(0, 3, 4)}},
		"an older value returns":                    {false, []Access{write(1, 2, 1), write(2, 4, 3), read(2, 5, 6), read(1, 7, 8)}},
		"a value from nowhere":                      {false, []Access{read(7, 1, 2)}},
		"a write under way is seen, then is gone":   {false, []Access{write(1, 0, 1), read(1, 2, 3), read(0, 4, 5)}},
		"a repeated write takes effect twice":       {true, []Access{write(1, 9, 1, 6), write(2, 4, 3), read(1, 2, 3), read(2, 4, 5), read(1, 8, 9)}},
		"a write takes effect twice, unrepeated":    {false, []Access{write(1, 9, 1), write(2, 4, 3), read(1, 2, 3), read(2, 4, 5), read(1, 7, 8)}},
		"a given-up write takes effect after all":   {true, []Access{write(1, 0, 1), write(2, 3, 2), read(1, 4, 5)}},
		"a repeated write after it was answered":    {false, []Access{write(1, 5, 1, 3), write(2, 7, 6), read(1, 8, 9)}},
		"two blocks have nothing to do with others": {true, []Access{write(1, 2, 1), {Block: 1, Calls: at(3), Ret: 4}}},
	} {
		undecided, err := (&History{Accesses: c.h}).CheckLinearizable(200_000)
		if (err == nil) != c.ok || undecided != 0 {
			t.Errorf("%s: %v, %d undecided", name, err, undecided)
		}
	}
}

func TestDurable(t *testing.T) {
	two := []Access{write(1, 2, 1), write(2, 4, 3)}
	for name, c := range map[string]struct {
		ok bool
		h  History
	}{
		"not flushed, lost":            {true, History{Accesses: append(two, read(1, 9, 10))}},
		"flushed, lost":                {false, History{Accesses: append(two, read(1, 9, 10)), Flushes: flushed(5, 6, "")}},
		"flushed, there":               {true, History{Accesses: append(two, read(2, 9, 10)), Flushes: flushed(5, 6, "")}},
		"flushed too early":            {true, History{Accesses: append(two, read(1, 9, 10)), Flushes: flushed(3, 6, "")}},
		"read while the flush goes on": {true, History{Accesses: append(two, read(1, 5, 10)), Flushes: flushed(5, 6, "")}},
		"flushed by a later session":   {true, History{Accesses: append(two, read(1, 9, 10)), Flushes: flushed(6, 7, "later")}},
		"FUA, lost":                    {false, History{Accesses: []Access{write(1, 2, 1), stable(write(2, 4, 3)), read(1, 9, 10)}}},
	} {
		if err := c.h.CheckDurable(); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func flushed(call, ret time.Duration, session string) []Flush {
	return []Flush{{call, ret, session}}
}
