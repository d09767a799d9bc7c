// Package explain says in sentences how a volume is, what is wrong with it and
// what to do next: gather reads what there is to know about one PVC, PV and
// Volume from the API server, Findings judges it (pure), Write prints it.
// Nothing here changes anything. A Facts is used by one goroutine.
package explain
