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
		files := func(s *source) bool { return s.test == test }
		run(t, checkFunctionCap, files)
		var all []int
		for _, s := range sources(t, files) {
			for _, f := range functions(s) {
				all = append(all, s.span(f))
			}
		}
		if got := p90(all); got > functionP90 {
			t.Errorf("nine of ten functions of %s have up to %d lines, want %d", kind, got, functionP90)
		}
	}
}

func functions(s *source) (all []*ast.FuncDecl) {
	for _, d := range s.ast.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			all = append(all, f)
		}
	}
	return all
}

func checkFunctionCap(s *source, report reporter) {
	for _, f := range functions(s) {
		if n := s.span(f); n > functionCap && !noted("dispatch", f.Doc) {
			report(f, "function %s has %d lines, the cap is %d", f.Name.Name, n, functionCap)
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
func TestParameters(t *testing.T) { run(t, checkParameters, production) }

func checkParameters(s *source, report reporter) {
	for _, f := range functions(s) {
		if !f.Name.IsExported() || noted("signature", f.Doc) {
			continue
		}
		if n := f.Type.Params.NumFields(); n > maxParams {
			report(f, "%s has %d parameters, at most %d: make a struct of them", f.Name.Name, n, maxParams)
		}
		for _, p := range f.Type.Params.List {
			if id, ok := p.Type.(*ast.Ident); ok && id.Name == "bool" {
				report(p, "%s has a bool parameter: make it two functions, or a field of an options struct", f.Name.Name)
			}
		}
	}
}

// TestInterfacesAreSmall: embedded interfaces count as one.
func TestInterfacesAreSmall(t *testing.T) { run(t, checkInterfaces, production) }

func checkInterfaces(s *source, report reporter) {
	ast.Inspect(s.ast, func(n ast.Node) bool {
		if i, ok := n.(*ast.InterfaceType); ok && i.Methods.NumFields() > maxMethods {
			report(i, "an interface of %d methods, at most %d", i.Methods.NumFields(), maxMethods)
		}
		return true
	})
}
