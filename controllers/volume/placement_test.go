package volume

import (
	"errors"
	"strings"
	"testing"
)

const gi = 1 << 30

func site(node, zone string, gib int64, unfit ...string) Site {
	s := Site{Node: node, Zone: zone, Pool: "pool", Available: gib * gi}
	if len(unfit) > 0 {
		s.Unfit = unfit[0]
	}
	return s
}

func TestPlace(t *testing.T) {
	three := Demand{Volume: "v", Replicas: 3, Extent: 2 * gi}
	for _, tc := range []struct {
		name   string
		demand Demand
		sites  []Site
		want   string // nodes in order
	}{
		{"most free first", three, []Site{site("a", "", 5), site("b", "", 9), site("c", "", 7), site("d", "", 4)}, "b c a"},
		{"preferred first", Demand{Replicas: 2, Extent: gi, Preferred: "d"}, []Site{site("a", "", 5), site("b", "", 9), site("d", "", 1)}, "d b"},
		{"preferred but full", Demand{Replicas: 1, Extent: 2 * gi, Preferred: "d"}, []Site{site("a", "", 5), site("d", "", 1)}, "a"},
		{"preferred but not ready", Demand{Replicas: 1, Extent: gi, Preferred: "d"}, []Site{site("a", "", 5), site("d", "", 9, "is not ready")}, "a"},
		{"a zone each before free space", three, []Site{site("a", "x", 9), site("b", "x", 8), site("c", "y", 3), site("d", "z", 2)}, "a c d"},
		{"zones in turn", Demand{Replicas: 4, Extent: gi}, []Site{site("a", "x", 9), site("b", "x", 8), site("c", "y", 3), site("d", "y", 2), site("e", "x", 7)}, "a c b d"},
		{"full zone is passed over", three, []Site{site("a", "x", 9), site("b", "x", 8), site("c", "x", 7), site("d", "y", 1)}, "a b c"},
		{"ties by name", three, []Site{site("c", "", 5), site("a", "", 5), site("b", "", 5)}, "a b c"},
		{"exactly enough", Demand{Replicas: 1, Extent: 5 * gi}, []Site{site("a", "", 5)}, "a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			placed, err := Place(tc.demand, tc.sites)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range placed {
				got = append(got, s.Node)
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("placed on %v, want %s", got, tc.want)
			}
		})
	}
}

func TestPlaceRefuses(t *testing.T) {
	three := Demand{Volume: "v", Size: "1800Mi", Replicas: 3, Extent: 2 * gi}
	for _, tc := range []struct {
		name   string
		sites  []Site
		reason string
		want   []string
	}{
		{"no node", nil, ReasonMoreReplicasThanNodes, []string{"v needs 3 nodes, 0 eligible"}},
		{"a node down", []Site{site("a", "", 5), site("b", "", 5), site("c", "", 5, "is not ready")}, ReasonMoreReplicasThanNodes,
			[]string{"needs 3 nodes, 2 eligible: c is not ready"}},
		{"two pools of one node", []Site{site("a", "", 5), site("a", "", 5), site("b", "", 5)}, ReasonMoreReplicasThanNodes, []string{"2 eligible"}},
		{"too full", []Site{site("a", "", 5), site("b", "", 1), site("c", "", 0)}, ReasonInsufficientCapacity,
			[]string{"v of 1800Mi needs 2Gi on each of 3 nodes", "b has 1Gi left in pool pool", "c has 0 left"}},
		{"down and full", []Site{site("a", "", 5), site("b", "", 1), site("c", "", 9, "is cordoned")}, ReasonMoreReplicasThanNodes,
			[]string{"2 eligible: b has 1Gi left in pool pool, c is cordoned"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			placed, err := Place(three, tc.sites)
			var u *Unplaced
			if !errors.As(err, &u) || placed != nil {
				t.Fatalf("placed %v, %v", placed, err)
			}
			if u.Reason != tc.reason {
				t.Errorf("reason %s, want %s", u.Reason, tc.reason)
			}
			for _, w := range tc.want {
				if !strings.Contains(u.Message, w) {
					t.Errorf("message %q lacks %q", u.Message, w)
				}
			}
		})
	}
}

// TestBestPool takes the pool of a node that can take the replica.
func TestBestPool(t *testing.T) {
	placed, err := Place(Demand{Replicas: 1, Extent: gi}, []Site{
		{Node: "a", Pool: "broken", Available: 9 * gi, Unfit: "is not reported"},
		{Node: "a", Pool: "small", Available: 2 * gi},
		{Node: "a", Pool: "big", Available: 3 * gi},
	})
	if err != nil || placed[0].Pool != "big" {
		t.Errorf("placed %v, %v", placed, err)
	}
}

func TestExtentSize(t *testing.T) {
	for _, tc := range []struct{ volume, want int64 }{
		{1 << 20, 514 << 20},
		{1 << 30, 1792 << 20},
	} {
		if got := ExtentSize(tc.volume); got != tc.want {
			t.Errorf("ExtentSize(%d) = %d, want %d", tc.volume, got, tc.want)
		}
	}
}

func TestSizes(t *testing.T) {
	for bytes, want := range map[int64]string{-1: "0", 0: "0", 1023: "1023", 1024: "1Ki", 5 << 20: "5Mi", 25432 << 20: "24.8Gi", 945 << 40: "945Ti", 1 << 62: "4Ei"} {
		if got := size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}
