package lint

import (
	"go/ast"
	"slices"
	"testing"
)

// The bounds on sizes, in lines.
const (
	functionP90, functionCap = 40, 100
	fileP90, fileCap         = 400, 800
	maxParams                = 4
	maxMethods               = 6
)

func p90(n []int) int {
	if len(n) == 0 {
		return 0
	}
	slices.Sort(n)
	return n[(len(n)-1)*9/10]
}

// TestFunctionLength counts code and tests apart.
func TestFunctionLength(t *testing.T) {
	for kind, test := range map[string]bool{"code": false, "tests": true} {
		var all []int
		for _, s := range sources(t, func(s *source) bool { return s.test == test }) {
			for _, d := range s.ast.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				n := s.span(f)
				all = append(all, n)
				if n > functionCap && !noted("dispatch", f.Doc) {
					t.Errorf("%s: function %s has %d lines, the cap is %d", s.at(f), f.Name.Name, n, functionCap)
				}
			}
		}
		if got := p90(all); got > functionP90 {
			t.Errorf("nine of ten functions of %s have up to %d lines, want %d", kind, got, functionP90)
		}
	}
}

func TestFileLength(t *testing.T) {
	var all []int
	for _, s := range sources(t, func(*source) bool { return true }) {
		all = append(all, s.lines)
		if s.lines > fileCap {
			t.Errorf("%s: %d lines, the cap is %d", s.path, s.lines, fileCap)
		}
	}
	if got := p90(all); got > fileP90 {
		t.Errorf("nine of ten files have up to %d lines, want %d", got, fileP90)
	}
}

// TestParameters: a call can be read without looking up what each argument is.
func TestParameters(t *testing.T) {
	for _, s := range sources(t, production) {
		for _, d := range s.ast.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() || noted("signature", f.Doc) {
				continue
			}
			if n := f.Type.Params.NumFields(); n > maxParams {
				t.Errorf("%s: %s has %d parameters, at most %d: make a struct of them", s.at(f), f.Name.Name, n, maxParams)
			}
			for _, p := range f.Type.Params.List {
				if id, ok := p.Type.(*ast.Ident); ok && id.Name == "bool" {
					t.Errorf("%s: %s has a bool parameter: make it two functions, or a field of an options struct", s.at(p), f.Name.Name)
				}
			}
		}
	}
}

// TestInterfacesAreSmall: embedded interfaces count as one.
func TestInterfacesAreSmall(t *testing.T) {
	for _, s := range sources(t, production) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxMethods {
				t.Errorf("%s: an interface of %d methods, at most %d", s.at(i), i.Methods.NumFields(), maxMethods)
			}
			return true
		})
	}
}
