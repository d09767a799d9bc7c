package lint

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// called returns "pkg.Func" of a call to an imported package's function.
func called(n ast.Node) string {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return ""
	}
	return selected(call.Fun)
}

func selected(n ast.Node) string {
	sel, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	x, ok := sel.X.(*ast.Ident)
	if !ok {
		return ""
	}
	return x.Name + "." + sel.Sel.Name
}

// TestPureCore: every protocol decision can be called as a function, and a
// simulator owns time, order and failure.
func TestPureCore(t *testing.T) {
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
	core := func(s *source) bool { return !s.test && exactly(s.pkg, "pkg/volume", "pkg/quorum", "pkg/history") }
	for _, s := range sources(t, core) {
		for i, to := range s.imports {
			if slices.Contains([]string{"net", "os", "sync", "syscall", "C"}, to) || strings.HasPrefix(to, "net/") || strings.HasPrefix(to, "os/") {
				t.Errorf("%s: the core imports %s", s.at(s.ast.Imports[i]), to)
			}
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if _, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: the core starts a goroutine", s.at(n))
			}
			if f, ok := strings.CutPrefix(selected(n), "time."); ok && slices.Contains(clocks, f) {
				t.Errorf("%s: the core reads a clock: time.%s", s.at(n), f)
			}
			return true
		})
	}
}

// TestNoSleep: what waits, waits for something, and can be told to stop.
func TestNoSleep(t *testing.T) {
	for _, s := range sources(t, production) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if called(n) == "time.Sleep" {
				t.Errorf("%s: time.Sleep outside tests: wait for an event or the end of a context", s.at(n))
			}
			return true
		})
	}
}

// TestContextComesFromAbove: only a command makes a context.
func TestContextComesFromAbove(t *testing.T) {
	below := func(s *source) bool { return !s.test && s.ast.Name.Name != "main" }
	for _, s := range sources(t, below) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			if f := called(n); f == "context.Background" || f == "context.TODO" {
				t.Errorf("%s: %s() below cmd: take a context, or use context.WithoutCancel", s.at(n), f)
			}
			return true
		})
	}
}

// TestGoroutinesHaveOwners: the comment on each go statement says who waits for
// its end.
func TestGoroutinesHaveOwners(t *testing.T) {
	for _, s := range sources(t, production) {
		ends := map[int]bool{} // lines on which a comment ends
		for _, g := range s.ast.Comments {
			ends[s.line(g.End())] = true
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			g, ok := n.(*ast.GoStmt)
			if !ok {
				return true
			}
			first, last := s.line(g.Pos()), s.line(g.End())
			if !ends[first-1] && !ends[first] && !ends[last] {
				t.Errorf("%s: a go statement without a comment that names its owner and the wait that ends it", s.at(g))
			}
			return true
		})
	}
}

// TestErrorsHaveClasses: nobody decides by an error's text.
func TestErrorsHaveClasses(t *testing.T) {
	for _, s := range sources(t, production) {
		ast.Inspect(s.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				f := called(n)
				if (strings.HasPrefix(f, "strings.") || strings.HasPrefix(f, "regexp.") || strings.HasSuffix(f, ".MatchString")) && slices.ContainsFunc(n.Args, errorText) {
					t.Errorf("%s: %s on an error's text: use errors.Is or errors.As", s.at(n), f)
				}
			case *ast.BinaryExpr:
				if (n.Op == token.EQL || n.Op == token.NEQ) && (errorText(n.X) || errorText(n.Y)) {
					t.Errorf("%s: comparing an error's text: use errors.Is or errors.As", s.at(n))
				}
			}
			return true
		})
	}
}

// errorText reports a call x.Error() without arguments.
func errorText(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) > 0 {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Error"
}
