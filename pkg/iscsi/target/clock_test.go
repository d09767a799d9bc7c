package target

import (
	"testing"
	"time"
	"unsafe"
)

// TestClockStep: a clock that is set makes nobody silent.
func TestClockStep(t *testing.T) {
	tg, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer tg.Close()
	began := time.Now()
	tg.enforce(began, nil)
	set := began
	*(*uint64)(unsafe.Pointer(&set)) += 3600 << 30 // the wall clock's seconds
	if set.Unix()-began.Unix() != 3600 || set.Sub(began) != 0 {
		t.Skip("a time.Time is laid out otherwise")
	}
	if d := tg.since(set, tg.now.Load()); d != 0 {
		t.Errorf("set forward by an hour: %v have gone by", d)
	}
	if d := tg.since(began.Add(time.Minute), tg.now.Load()); d != time.Minute {
		t.Errorf("after a minute %v have gone by", d)
	}
}
