package lint

import (
	"go/ast"
	"strings"
	"testing"
)

// TestTheRules: each rule finds what it is for, and no more.
func TestTheRules(t *testing.T) {
	long := strings.Repeat("\n", functionCap)
	for _, c := range []struct {
		name string
		rule check
		want int
		code string
	}{
		{"pure", checkPure, 3, "import (\"net/http\"; \"time\")\nfunc f() { go f(); _ = time.Now }"},
		{"pure, durations", checkPure, 0, "import \"time\"\nconst d = time.Second"},
		{"sleep", checkSleep, 1, "import \"time\"\nfunc f() { time.Sleep(1) }"},
		{"background", checkContext, 2, "func f() { context.Background(); context.TODO() }"},
		{"background derived", checkContext, 0, "func f() { context.WithoutCancel(ctx) }"},
		{"goroutine", checkOwners, 1, "func f() {\n\n\tgo f()\n}"},
		{"goroutine owned above", checkOwners, 0, "func f() {\n\t// Close waits for it\n\tgo f()\n}"},
		{"goroutine owned beside", checkOwners, 0, "func f() {\n\n\tgo f() // Close waits for it\n}"},
		{"goroutine owned at its end", checkOwners, 0, "func f() {\n\n\tgo func() {\n\t}() // Close waits for it\n}"},
		{"error text", checkErrors, 3, "func f() { _ = strings.Contains(err.Error(), \"x\"); _ = err.Error() == \"x\"; re.MatchString(err.Error()) }"},
		{"error class", checkErrors, 0, "func f() { _ = errors.Is(err, x); print(err.Error()) }"},
		{"docs", checkDocs, 2, "func F() {}\n\ntype T int"},
		{"docs written", checkDocs, 0, "// F is.\nfunc F() {}\n\n// T is.\ntype T int\n\nfunc (T) M() {}\nfunc g() {}"},
		{"length", checkFunctionCap, 1, "func f() {" + long + "}"},
		{"length noted", checkFunctionCap, 0, "//lint:dispatch one case for each opcode\nfunc f() {" + long + "}"},
		{"length noted without a reason", checkFunctionCap, 1, "//lint:dispatch\nfunc f() {" + long + "}"},
		{"parameters", checkParameters, 2, "func F(a, b, c, d, e int, f bool) {}"},
		{"parameters noted", checkParameters, 0, "//lint:signature somebody's interface\nfunc F(a, b, c, d, e int) {}"},
		{"interface", checkInterfaces, 1, "type i interface { a(); b(); c(); d(); e(); f(); g() }"},
	} {
		if got := count(t, c.rule, "package p\n\n"+c.code); got != c.want {
			t.Errorf("%s: %d findings, want %d", c.name, got, c.want)
		}
	}
	if count(t, checkName, "package util") != 1 || count(t, checkName, "package block") != 0 {
		t.Error("package names")
	}
}

func count(t *testing.T, rule check, code string) (n int) {
	t.Helper()
	s, err := parseText("pkg/p/p.go", []byte(code))
	if err != nil {
		t.Fatal(err)
	}
	rule(s, func(ast.Node, string, ...any) { n++ })
	return n
}

// TestImportRules: each import rule finds what it is for, and no more.
func TestImportRules(t *testing.T) {
	const m = module + "/"
	for _, c := range []struct {
		file, to string
		want     string // the rule broken, or none
	}{
		{"pkg/ioc/a.go", "k8s.io/api/core/v1", "pkg is free of Kubernetes"},
		{"pkg/ioc/a_test.go", m + "api/v1alpha1", "pkg is free of Kubernetes"},
		{"pkg/nvme/tcp/a.go", "golang.org/x/sys/unix", "codecs are standard library only"},
		{"pkg/nvme/tcp/a.go", m + "pkg/nvme", ""},
		{"pkg/nvme/target/a.go", m + "pkg/volume", "frontends know block devices, not volumes"},
		{"pkg/nvme/target/a.go", m + "pkg/block", ""},
		{"pkg/block/a.go", m + "pkg/store", "the shared vocabulary is made of leaves"},
		{"pkg/replica/a.go", m + "pkg/store/dmu", "only cmd/replica links the DMU"},
		{"pkg/replica/a_test.go", m + "pkg/store/dmu", ""},
		{"cmd/replica/a.go", m + "pkg/store/dmu", ""},
		{"cmd/csi/a.go", m + "authority/kube", "only cmd/target links the Kubernetes authority"},
		{"cmd/target/a.go", m + "authority/kube", ""},
		{"api/v1alpha1/a.go", "k8s.io/client-go/rest", "the API is types"},
		{"api/v1alpha1/a.go", "k8s.io/apimachinery/pkg/runtime", ""},
		{"csi/node/a.go", m + "controllers/volume", "reconcilers and the CSI driver meet in the API only"},
		{"controllers/volume/a.go", m + "controllers/internal/resources", ""},
		{"pkg/ioc/a.go", "testing", "test support is for tests"},
		{"pkg/store/storetest/a.go", "testing", ""},
	} {
		s, err := parseText(c.file, []byte("package p\n\nimport _ \""+c.to+"\""))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, r := range importRules {
			if r.of(s) && r.wrong(s, c.to) {
				got += r.name
			}
		}
		if got != c.want {
			t.Errorf("%s importing %s breaks %q, want %q", c.file, c.to, got, c.want)
		}
	}
}
