// Package lint holds the repository's rules as tests: they read the source and
// say which line breaks which rule, and why the rule is there. A rule whose
// package does not exist yet has nothing to check. Nothing imports this package.
//
// Notes in the source that a test accepts, each with its reason behind it:
//
//	//lint:dispatch   a function that is one switch over a protocol's verbs may be long
//	//lint:signature  a signature that somebody else's interface or custom prescribes
package lint
