package lint

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// TestPackageDocs: each package says what it is for.
func TestPackageDocs(t *testing.T) {
	docs := map[string]string{}
	names := map[string]string{}
	for _, s := range sources(t, func(s *source) bool { return !strings.HasSuffix(s.path, "_test.go") }) {
		dir := path.Dir(s.path)
		names[dir] = s.ast.Name.Name
		if s.ast.Doc != nil && len(docs[dir]) < len(s.ast.Doc.Text()) {
			docs[dir] = s.ast.Doc.Text()
		}
	}
	for dir, name := range names {
		want := "Package " + name + " "
		if name == "main" {
			want = "Command "
		}
		switch {
		case docs[dir] == "":
			t.Errorf("%s: package %s has no doc: say its purpose, its concurrency contract and its format", dir, name)
		case !strings.HasPrefix(docs[dir], want):
			t.Errorf("%s: the package doc must begin with %q, not %q", dir, want, firstLine(docs[dir]))
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// TestExportedDocs: exported types and functions say what they do.
func TestExportedDocs(t *testing.T) {
	for _, s := range sources(t, production) {
		if s.ast.Name.Name == "main" {
			continue
		}
		for _, d := range s.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() && d.Doc == nil {
					t.Errorf("%s: exported function %s has no doc", s.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				checkTypeDocs(t, s, d)
			}
		}
	}
}

func checkTypeDocs(t *testing.T, s *source, d *ast.GenDecl) {
	t.Helper()
	for _, spec := range d.Specs {
		if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
			t.Errorf("%s: exported type %s has no doc", s.at(ts), ts.Name.Name)
		}
	}
}

// TestPackageNames: a package is named for what it provides.
func TestPackageNames(t *testing.T) {
	refused := []string{"util", "utils", "common", "types", "helper", "helpers", "vars", "misc", "shared", "lib", "base"}
	for _, s := range sources(t, func(*source) bool { return true }) {
		if slices.Contains(refused, s.ast.Name.Name) {
			t.Errorf("%s: package %s says nothing; name it for what it provides", s.path, s.ast.Name.Name)
		}
	}
}
