package volume

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/cask-storage/cask/pkg/replica"
)

// The reasons of a Placed condition.
const (
	ReasonPlaced                = "Placed"
	ReasonNoPoolMatches         = "NoPoolMatches"
	ReasonMoreReplicasThanNodes = "MoreReplicasThanNodes"
	ReasonInsufficientCapacity  = "InsufficientCapacity"
)

// ExtentSize is what a replica of a volume of so many bytes takes of its pool.
func ExtentSize(volume int64) int64 { return int64(replica.ExtentSize(uint64(volume))) }

// Site is one node's part of one pool, as a place for a replica.
type Site struct {
	Node, Pool, Zone string
	Available        int64  // bytes that can still be promised
	Unfit            string // why no replica may come here now; empty when one may
}

// Demand is what is to be placed.
type Demand struct {
	Volume    string
	Size      string // of the volume, as its user wrote it
	Replicas  int
	Extent    int64           // bytes on each site
	Preferred string          // node that gets a replica if it can
	Zones     string          // as in the Volume's spec: local wants most in one zone
	Beside    []Site          // that have a replica already
	Avoid     map[string]bool // nodes to take last
}

// Unplaced says why a volume has no place; nothing was decided then.
type Unplaced struct {
	Reason, Message string
}

func (u *Unplaced) Error() string { return u.Message }

// Place picks a site for each replica, all or none: no two on one node, the
// preferred node first, in as many zones as there are -- or, for zones: local,
// more than half in one -- then where most is free.
func Place(d Demand, sites []Site) ([]Site, error) {
	best := bestPerNode(d.unfit(sites))
	var fit []Site
	for _, s := range best {
		if s.Unfit == "" && s.Available >= d.Extent {
			fit = append(fit, s)
		}
	}
	if len(fit) < d.Replicas {
		return nil, refusal(d, best)
	}
	placed := slices.Clone(d.Beside)
	for len(placed) < len(d.Beside)+d.Replicas {
		next := slices.MinFunc(fit, func(a, b Site) int {
			return cmp.Or(
				first(!d.Avoid[a.Node], !d.Avoid[b.Node]),
				first(a.Node == d.Preferred, b.Node == d.Preferred),
				d.spread(placed, a.Zone)-d.spread(placed, b.Zone),
				cmp.Compare(b.Available, a.Available),
				cmp.Compare(a.Node, b.Node))
		})
		placed = append(placed, next)
		fit = slices.DeleteFunc(fit, func(s Site) bool { return s.Node == next.Node })
	}
	return placed[len(d.Beside):], nil
}

// unfit marks the sites that cannot be taken for this demand.
func (d Demand) unfit(sites []Site) []Site {
	sites = slices.Clone(sites)
	for i := range sites {
		s := &sites[i]
		switch {
		case slices.ContainsFunc(d.Beside, func(b Site) bool { return b.Node == s.Node }):
			s.Unfit = "has a replica of it"
		case s.Unfit == "" && d.Zones != "" && s.Zone == "":
			s.Unfit = "has no label " + corev1.LabelTopologyZone
		}
	}
	return sites
}

// spread orders zones by how little a further replica adds there.
func (d Demand) spread(placed []Site, zone string) int {
	n := inZone(placed, zone)
	if d.Zones == zonesLocal && len(placed) > 0 && zone == placed[0].Zone && n <= (len(d.Beside)+d.Replicas)/2 {
		return -1
	}
	return n
}

// zonesLocal is spec.zones of a volume that acknowledges in one zone.
const zonesLocal = "local"

func inZone(placed []Site, zone string) int {
	n := 0
	for _, s := range placed {
		if s.Zone == zone {
			n++
		}
	}
	return n
}

// bestPerNode keeps one site for each node, the fit one with most available,
// ordered by node.
func bestPerNode(sites []Site) []Site {
	byNode := map[string]Site{}
	for _, s := range sites {
		old, ok := byNode[s.Node]
		if !ok || better(s, old) {
			byNode[s.Node] = s
		}
	}
	var best []Site
	for _, s := range byNode {
		best = append(best, s)
	}
	slices.SortFunc(best, func(a, b Site) int { return cmp.Compare(a.Node, b.Node) })
	return best
}

func better(a, b Site) bool {
	if (a.Unfit == "") != (b.Unfit == "") {
		return a.Unfit == ""
	}
	return cmp.Or(cmp.Compare(b.Available, a.Available), cmp.Compare(a.Pool, b.Pool)) < 0
}

// refusal explains, node by node, why there is no place.
func refusal(d Demand, best []Site) *Unplaced {
	var eligible int
	var why []string
	for _, s := range best {
		switch {
		case s.Unfit != "":
			why = append(why, s.Node+" "+s.Unfit)
		case s.Available < d.Extent:
			eligible++
			why = append(why, fmt.Sprintf("%s has %s left in pool %s", s.Node, size(s.Available), s.Pool))
		default:
			eligible++
		}
	}
	detail := ""
	if len(why) > 0 {
		detail = ": " + strings.Join(why, ", ")
	}
	more := ""
	if len(d.Beside) > 0 {
		more = " more"
	}
	if eligible < d.Replicas {
		return &Unplaced{ReasonMoreReplicasThanNodes, fmt.Sprintf(
			"volume %s needs %s%s, %d eligible%s; add nodes to the pool or ask for fewer replicas",
			d.Volume, nodes(d.Replicas), more, eligible, detail)}
	}
	return &Unplaced{ReasonInsufficientCapacity, fmt.Sprintf(
		"volume %s of %s needs %s on each of %s%s; add space, raise the pool's overcommitPercent or ask for less",
		d.Volume, d.Size, size(d.Extent), nodes(d.Replicas), detail)}
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// size is rounded to the unit that people would choose.
func size(bytes int64) string {
	const units = "KMGTPE"
	n, unit := float64(max(0, bytes)), -1
	for n >= 1024 && unit+1 < len(units) {
		n /= 1024
		unit++
	}
	if unit < 0 {
		return strconv.FormatInt(max(0, bytes), 10)
	}
	return strconv.FormatFloat(math.Round(n*10)/10, 'f', -1, 64) + units[unit:unit+1] + "i"
}
