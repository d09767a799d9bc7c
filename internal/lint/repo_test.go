package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/cask-storage/cask"

// source is one Go file of the repository.
type source struct {
	path      string // relative to the root, with slashes
	pkg       string // import path of its directory
	test      bool   // _test.go, or of a package that only tests use (…test)
	generated bool
	lines     int
	ast       *ast.File
	imports   []string
}

var fset = token.NewFileSet()

// at says where a node is.
func (s *source) at(n ast.Node) string { return fmt.Sprintf("%s:%d", s.path, s.line(n.Pos())) }

func (s *source) line(p token.Pos) int { return fset.Position(p).Line }

// span is the number of lines a node takes.
func (s *source) span(n ast.Node) int { return s.line(n.End()) - s.line(n.Pos()) + 1 }

// noted reports whether the comment group holds one of this package's notes.
func noted(note string, groups ...*ast.CommentGroup) bool {
	for _, g := range groups {
		if g == nil {
			continue
		}
		for _, c := range g.List {
			if rest, ok := strings.CutPrefix(c.Text, "//lint:"+note); ok && strings.TrimSpace(rest) != "" {
				return true
			}
		}
	}
	return false
}

func root() string {
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		panic(err)
	}
	return dir
}

// repo parses every Go file once.
var repo = sync.OnceValues(func() ([]*source, error) {
	var all []*source
	err := filepath.WalkDir(root(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != root() && (strings.HasPrefix(name, ".") || name == "testdata" || name == "vendor" || hasGoMod(p)) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		s, err := parse(p)
		all = append(all, s)
		return err
	})
	return all, err
})

// hasGoMod reports a module of its own, to which these rules do not apply.
func hasGoMod(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func parse(p string) (*source, error) {
	rel, err := filepath.Rel(root(), p)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(p)
	if err != nil {
		return nil, err
	}
	return parseText(filepath.ToSlash(rel), content)
}

func parseText(rel string, content []byte) (*source, error) {
	f, err := parser.ParseFile(fset, rel, content, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	s := &source{path: rel, pkg: path.Join(module, path.Dir(rel)), ast: f, generated: ast.IsGenerated(f)}
	s.lines = strings.Count(string(content), "\n")
	s.test = strings.HasSuffix(rel, "_test.go") || strings.HasSuffix(path.Dir(rel), "test")
	for _, i := range f.Imports {
		to, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		s.imports = append(s.imports, to)
	}
	return s, nil
}

// sources returns the files that keep accepts; generated ones never count.
func sources(t *testing.T, keep func(*source) bool) []*source {
	t.Helper()
	all, err := repo()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(all), func(s *source) bool { return s.generated || !keep(s) })
}

// reporter is told of each place that breaks a rule.
type reporter func(n ast.Node, format string, args ...any)

// check applies one rule to one file.
type check func(s *source, report reporter)

func run(t *testing.T, c check, files func(*source) bool) {
	t.Helper()
	for _, s := range sources(t, files) {
		c(s, func(n ast.Node, format string, args ...any) {
			t.Helper()
			t.Errorf("%s: %s", s.at(n), fmt.Sprintf(format, args...))
		})
	}
}

func production(s *source) bool { return !s.test }

// under returns whether the package is one of these directories, or below one.
func under(pkg string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool {
		full := path.Join(module, d)
		return pkg == full || strings.HasPrefix(pkg, full+"/")
	})
}

// exactly returns whether the package is one of these directories.
func exactly(pkg string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return pkg == path.Join(module, d) })
}

// standard returns whether an import path is of the standard library.
func standard(to string) bool {
	first, _, _ := strings.Cut(to, "/")
	return !strings.Contains(first, ".") && to != "C"
}
