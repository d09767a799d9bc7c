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
	run(t, checkDocs, func(s *source) bool { return !s.test && s.ast.Name.Name != "main" })
}

func checkDocs(s *source, report reporter) {
	for _, d := range s.ast.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.IsExported() && d.Doc == nil {
				report(d, "exported function %s has no doc", d.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
					report(ts, "exported type %s has no doc", ts.Name.Name)
				}
			}
		}
	}
}

// TestPackageNames: a package is named for what it provides.
func TestPackageNames(t *testing.T) {
	run(t, checkName, func(*source) bool { return true })
}

func checkName(s *source, report reporter) {
	refused := []string{"util", "utils", "common", "types", "helper", "helpers", "vars", "misc", "shared", "lib", "base"}
	if slices.Contains(refused, s.ast.Name.Name) {
		report(s.ast.Name, "package %s says nothing; name it for what it provides", s.ast.Name.Name)
	}
}
