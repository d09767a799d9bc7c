package lint

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// goList runs `go list` without cgo in the root.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e"}, args...)...)
	cmd.Dir = root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// TestNoKubernetesInTheDataPath looks at everything that pkg and the replica
// are built from, other people's modules too.
func TestNoKubernetesInTheDataPath(t *testing.T) {
	roots := []string{"./pkg/..."}
	for _, s := range sources(t, func(s *source) bool { return exactly(s.pkg, "cmd/replica") }) {
		_ = s
		roots = append(roots, "./cmd/replica")
		break
	}
	for _, p := range goList(t, append([]string{"-deps", "-f", "{{.ImportPath}}"}, roots...)...) {
		if kubernetes(p) {
			t.Errorf("%s is in the closure of %v: the data path must build and run without Kubernetes", p, roots)
		}
	}
}

// TestBuildsWithoutCgo: a package that needs cgo has a stub beside it, so that
// every other package can be built and tested without a C compiler.
func TestBuildsWithoutCgo(t *testing.T) {
	for _, line := range goList(t, "-f", "{{if .Error}}{{.ImportPath}}: {{.Error}}{{end}}", "./...") {
		if line != "" {
			t.Errorf("with CGO_ENABLED=0: %s", line)
		}
	}
}

// TestOneCgoTree: the foreign ABI is known in one place.
func TestOneCgoTree(t *testing.T) {
	for _, s := range sources(t, func(s *source) bool { return !under(s.pkg, "pkg/store/dmu") }) {
		for i, to := range s.imports {
			if to == "C" {
				t.Errorf("%s: import \"C\" belongs below pkg/store/dmu only", s.at(s.ast.Imports[i]))
			}
		}
	}
}
