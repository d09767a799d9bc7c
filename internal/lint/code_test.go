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
	run(t, checkPure, func(s *source) bool {
		return !s.test && exactly(s.pkg, "pkg/volume", "pkg/quorum", "pkg/history")
	})
}

func checkPure(s *source, report reporter) {
	clocks := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
	for i, to := range s.imports {
		if slices.Contains([]string{"net", "os", "sync", "syscall", "C"}, to) || strings.HasPrefix(to, "net/") || strings.HasPrefix(to, "os/") {
			report(s.ast.Imports[i], "the core imports %s", to)
		}
	}
	ast.Inspect(s.ast, func(n ast.Node) bool {
		if _, ok := n.(*ast.GoStmt); ok {
			report(n, "the core starts a goroutine")
		}
		if f, ok := strings.CutPrefix(selected(n), "time."); ok && slices.Contains(clocks, f) {
			report(n, "the core reads a clock: time.%s", f)
		}
		return true
	})
}

// TestNoSleep: what waits, waits for something, and can be told to stop.
func TestNoSleep(t *testing.T) { run(t, checkSleep, production) }

func checkSleep(s *source, report reporter) {
	ast.Inspect(s.ast, func(n ast.Node) bool {
		if selected(n) == "time.Sleep" {
			report(n, "time.Sleep outside tests: wait for an event or the end of a context")
		}
		return true
	})
}

// TestContextComesFromAbove: only a command makes a context.
func TestContextComesFromAbove(t *testing.T) {
	run(t, checkContext, func(s *source) bool { return !s.test && s.ast.Name.Name != "main" })
}

func checkContext(s *source, report reporter) {
	ast.Inspect(s.ast, func(n ast.Node) bool {
		if f := called(n); f == "context.Background" || f == "context.TODO" {
			report(n, "%s() below cmd: take a context, or use context.WithoutCancel", f)
		}
		return true
	})
}

// TestGoroutinesHaveOwners: the comment on each go statement says who waits for
// its end.
func TestGoroutinesHaveOwners(t *testing.T) { run(t, checkOwners, production) }

func checkOwners(s *source, report reporter) {
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
			report(g, "a go statement without a comment that names its owner and the wait that ends it")
		}
		return true
	})
}

// TestErrorsHaveClasses: nobody decides by an error's text.
func TestErrorsHaveClasses(t *testing.T) { run(t, checkErrors, production) }

func checkErrors(s *source, report reporter) {
	ast.Inspect(s.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			f := called(n)
			matching := strings.HasPrefix(f, "strings.") || strings.HasSuffix(f, ".MatchString")
			if matching && slices.ContainsFunc(n.Args, errorText) {
				report(n, "%s on an error's text: use errors.Is or errors.As", f)
			}
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && (errorText(n.X) || errorText(n.Y)) {
				report(n, "comparing an error's text: use errors.Is or errors.As")
			}
		}
		return true
	})
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
