package publishcontext

import (
	"errors"
	"maps"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	for _, c := range []Context{
		{Address: "10.0.0.1:4420", NQN: VolumeNQN("pvc-1"), NSID: NSID, Attachment: "A", ReadOnly: true, UID: "u", Authentication: "nodes"},
		{Address: "[::1]:4420", NQN: "n", NSID: 7, Attachment: "b"},
	} {
		got, err := Parse(c.Map())
		if err != nil || got != c {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	good := Context{Address: "a:1", NQN: "n", NSID: 1, Attachment: "x"}.Map()
	for key, value := range map[string]string{"address": "", "nqn": "", "nsid": "x", "attachment": "", "readOnly": "perhaps"} {
		m := maps.Clone(good)
		m[key] = value
		if _, err := Parse(m); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s=%q: %v", key, value, err)
		}
	}
	if _, err := Parse(nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("nil: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("10.0.0.1:4420", "nqn.x", "1", "id", "true", "")
	f.Add("10.0.0.1:3260", "nqn.x", "1", "id", "", "iscsi")
	f.Add("", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, address, nqn, nsid, id, ro, frontend string) {
		c, err := Parse(map[string]string{"address": address, "nqn": nqn, "nsid": nsid, "attachment": id, "readOnly": ro, "frontend": frontend})
		if err != nil {
			return
		}
		if again, err := Parse(c.Map()); err != nil || again != c {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}
