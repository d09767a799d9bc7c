package lint

import (
	"strings"
	"testing"
)

// importRule forbids imports of some packages to some others.
type importRule struct {
	name  string
	why   string
	of    func(s *source) bool            // the files it binds
	wrong func(s *source, to string) bool // what they must not import
}

func kubernetes(to string) bool {
	return strings.HasPrefix(to, "k8s.io/") || strings.HasPrefix(to, "sigs.k8s.io/")
}

var codecs = []string{"pkg/nvme", "pkg/nvme/tcp", "pkg/iscsi", "pkg/pdu", "pkg/scsi"}

var frontends = []string{"pkg/nvme", "pkg/iscsi", "pkg/scsi", "pkg/attach", "pkg/vhostuser"}

var importRules = []importRule{
	{
		name: "pkg is free of Kubernetes",
		why:  "everything in pkg runs on a laptop without a cluster, and is tested there",
		of:   func(s *source) bool { return under(s.pkg, "pkg") },
		wrong: func(_ *source, to string) bool {
			return kubernetes(to) || under(to, "api", "controllers", "csi", "authority", "cmd")
		},
	},
	{
		name:  "codecs are standard library only",
		why:   "what parses a peer's bytes is read, fuzzed and reused on its own",
		of:    func(s *source) bool { return !s.test && exactly(s.pkg, codecs...) },
		wrong: func(_ *source, to string) bool { return !standard(to) && !exactly(to, codecs...) },
	},
	{
		name: "frontends know block devices, not volumes",
		why:  "a frontend serves any block.Device; replication stays behind that interface",
		of:   func(s *source) bool { return under(s.pkg, frontends...) },
		wrong: func(_ *source, to string) bool {
			return under(to, "pkg/volume", "pkg/replication", "pkg/replica", "pkg/target", "pkg/store")
		},
	},
	{
		name: "the shared vocabulary is made of leaves",
		why:  "packages that everybody imports must not pull anything along",
		of: func(s *source) bool {
			return !s.test && exactly(s.pkg, "pkg/accept", "pkg/block", "pkg/history", "pkg/quorum")
		},
		wrong: func(_ *source, to string) bool { return !standard(to) },
	},
	{
		name: "only cmd/replica links the DMU",
		why:  "it is the one process that may abort in C: its blast radius is one replica of one volume",
		of: func(s *source) bool {
			return !strings.HasSuffix(s.path, "_test.go") && !under(s.pkg, "cmd/replica", "pkg/store/dmu")
		},
		wrong: func(_ *source, to string) bool { return under(to, "pkg/store/dmu") },
	},
	{
		name:  "only cmd/target links the Kubernetes authority",
		why:   "the data path depends on the API server in one small adapter and nowhere else",
		of:    func(s *source) bool { return !s.test && !under(s.pkg, "cmd/target", "authority") },
		wrong: func(_ *source, to string) bool { return under(to, "authority") },
	},
	{
		name: "the API is types",
		why:  "whoever imports the types must not get client libraries with them",
		of:   func(s *source) bool { return !s.test && under(s.pkg, "api") },
		wrong: func(_ *source, to string) bool {
			return !standard(to) && !strings.HasPrefix(to, "k8s.io/apimachinery/") && !under(to, "api")
		},
	},
	{
		name: "reconcilers and the CSI driver meet in the API only",
		why:  "they run in different processes and versions; objects in the API server are their contract",
		of:   func(s *source) bool { return !s.test && under(s.pkg, "csi", "controllers") },
		wrong: func(s *source, to string) bool {
			return under(to, "csi") && !under(s.pkg, "csi") || under(to, "controllers") && !under(s.pkg, "controllers")
		},
	},
	{
		name:  "nobody imports a command",
		why:   "cmd turns flags into dependencies and runs; what others need belongs elsewhere",
		of:    func(s *source) bool { return true },
		wrong: func(s *source, to string) bool { return under(to, "cmd") && !under(s.pkg, "cmd") },
	},
	{
		name: "test support is for tests",
		why:  "suites and fakes must not end up in a binary",
		of:   production,
		wrong: func(_ *source, to string) bool {
			return to == "testing" || strings.HasPrefix(to, module) && strings.HasSuffix(to, "test")
		},
	},
}

func TestImports(t *testing.T) {
	for _, r := range importRules {
		t.Run(r.name, func(t *testing.T) {
			for _, s := range sources(t, r.of) {
				for i, to := range s.imports {
					if r.wrong(s, to) {
						t.Errorf("%s: imports %s; %s: %s", s.at(s.ast.Imports[i]), to, r.name, r.why)
					}
				}
			}
		})
	}
}

// TestFrontendClosure follows the imports inside the repository: what a
// frontend must not import it must not reach either.
func TestFrontendClosure(t *testing.T) {
	edges := map[string][]string{}
	for _, s := range sources(t, production) {
		edges[s.pkg] = append(edges[s.pkg], s.imports...)
	}
	for from := range edges {
		if !under(from, frontends...) {
			continue
		}
		if way := reach(edges, from); way != nil {
			t.Errorf("%s: a frontend reaches replication; it should know pkg/block only", strings.Join(way, " -> "))
		}
	}
}

// reach returns a way from a package to the replication, nil when there is none.
func reach(edges map[string][]string, from string) []string {
	ways := [][]string{{from}}
	seen := map[string]bool{}
	for len(ways) > 0 {
		way := ways[0]
		ways = ways[1:]
		last := way[len(way)-1]
		if under(last, "pkg/volume", "pkg/replication", "pkg/replica", "pkg/target") {
			return way
		}
		if seen[last] {
			continue
		}
		seen[last] = true
		for _, to := range edges[last] {
			ways = append(ways, append(way[:len(way):len(way)], to))
		}
	}
	return nil
}
