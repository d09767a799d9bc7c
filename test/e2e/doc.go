// Package e2e asks a real cluster, with Cask installed and a StoragePool named
// default, for what users get wrong and what breaks: each must be refused or
// survived with a text that says what to do, and lose nothing. It runs with
// -tags e2e, against the cluster of KUBECONFIG; hack/test.sh makes one.
package e2e
