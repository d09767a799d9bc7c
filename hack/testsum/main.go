// Command testsum reads the events of `go test -json` and prints what a person
// wants to see: a line for each package when it ends, everything a failed test
// said, why tests were skipped; and appends its counts and failures to a file, for
// a total over several runs, which says once more what failed.
//
//	go test -json ./... | testsum TOTALS-FILE
//	testsum -total TOTALS-FILE
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

type counts struct{ Passed, Failed, Skipped int }

func (c *counts) add(o counts) {
	c.Passed += o.Passed
	c.Failed += o.Failed
	c.Skipped += o.Skipped
}

func (c counts) String() string {
	return fmt.Sprintf("%d passed, %d failed, %d skipped", c.Passed, c.Failed, c.Skipped)
}

// totals is a line of the file: one run.
type totals struct {
	counts
	Failures []string // what each failed test or package said last
}

// What is repeated of a failure: its reason comes at the beginning, or at the
// end, and what a test shows of the cluster is wide. In bytes.
const (
	firstWords = 1500
	lastWords  = 500
	widest     = 300
)

// report gathers events until their package or test ends.
type report struct {
	out    io.Writer
	total  totals
	byPkg  map[string]*counts
	output map[[2]string]*strings.Builder // by package and test
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 2 && args[0] == "-total" {
		return printTotal(args[1])
	}
	if len(args) != 1 {
		return errors.New("usage: testsum TOTALS-FILE, or testsum -total TOTALS-FILE")
	}
	r := report{out: os.Stdout, byPkg: map[string]*counts{}, output: map[[2]string]*strings.Builder{}}
	if err := r.readAll(os.Stdin); err != nil {
		return err
	}
	if err := appendTotals(args[0], r.total); err != nil {
		return err
	}
	fmt.Println(r.total.counts)
	if r.total.Failed > 0 {
		return errors.New("tests failed, see above")
	}
	return nil
}

func (r *report) readAll(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil { // the go command's own words
			fmt.Fprintln(r.out, lines.Text())
			continue
		}
		r.take(e)
	}
	return lines.Err()
}

func (r *report) take(e event) {
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		r.buffer(e).WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(e)
		} else {
			r.endTest(e)
		}
		delete(r.output, [2]string{e.Package, e.Test})
	}
}

func (r *report) buffer(e event) *strings.Builder {
	key := [2]string{e.Package, e.Test}
	if r.output[key] == nil {
		r.output[key] = &strings.Builder{}
	}
	return r.output[key]
}

func (r *report) pkg(name string) *counts {
	if r.byPkg[name] == nil {
		r.byPkg[name] = &counts{}
	}
	return r.byPkg[name]
}

func (r *report) endTest(e event) {
	c := r.pkg(e.Package)
	switch e.Action {
	case "pass":
		c.Passed++
	case "skip":
		c.Skipped++
		fmt.Fprintf(r.out, "skipped %s %s\n", e.Package, indented(r.buffer(e).String(), "=== ", "--- "))
	case "fail":
		c.Failed++
		r.failed(e)
	}
}

func (r *report) failed(e event) {
	said := r.buffer(e).String()
	name := strings.TrimSpace(e.Package + " " + e.Test)
	fmt.Fprintf(r.out, "FAILED %s\n%s", name, said)
	r.total.Failures = append(r.total.Failures, fmt.Sprintf("FAILED %s\n%s", name, gist(said)))
}

// gist is the beginning and the end of what a test said.
func gist(said string) string {
	var b strings.Builder
	for line := range strings.Lines(said) {
		if len(line) > widest {
			line = line[:widest] + "…\n"
		}
		b.WriteString(line)
	}
	said = b.String()
	if len(said) <= firstWords+lastWords {
		return said
	}
	return said[:firstWords] + "\n[…]\n" + said[len(said)-lastWords:]
}

// indented joins the lines that have none of the prefixes.
func indented(text string, without ...string) string {
	var kept []string
next:
	for line := range strings.Lines(text) {
		for _, p := range without {
			if strings.HasPrefix(strings.TrimSpace(line), p) {
				continue next
			}
		}
		kept = append(kept, strings.TrimSpace(line))
	}
	return strings.Join(kept, " ")
}

func (r *report) endPackage(e event) {
	c := r.pkg(e.Package)
	if e.Action == "fail" && c.Failed == 0 { // it did not build, or ended itself
		c.Failed++
		r.failed(e)
	}
	r.total.add(*c)
	switch {
	case e.Action == "fail":
		fmt.Fprintf(r.out, "FAIL\t%s\t%.1fs\t%v\n", e.Package, e.Elapsed, *c)
	case *c != (counts{}):
		fmt.Fprintf(r.out, "ok\t%s\t%.1fs\t%v\n", e.Package, e.Elapsed, *c)
	}
}

func appendTotals(file string, t totals) error {
	line, err := json.Marshal(t)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, string(line))
	return errors.Join(err, f.Close())
}

func printTotal(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var sum counts
	for d := json.NewDecoder(f); ; {
		var t totals
		if err := d.Decode(&t); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		sum.add(t.counts)
		for _, failure := range t.Failures {
			fmt.Println(failure)
		}
	}
	fmt.Println(sum)
	return nil
}
