# Cask. `make help` lists what can be made.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# Every folder of cmd/ is a program; only the replica links ZFS, through cgo.
COMMANDS := $(notdir $(patsubst %/,%,$(dir $(wildcard cmd/*/main.go))))
program = $(if $(filter kubectl-cask,$(1)),cask,cask-$(1))

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## install what is needed from the distribution (root)
	@hack/setup.sh

.PHONY: build
build: $(addprefix build-,$(COMMANDS)) ## compile every program into bin/

.PHONY: $(addprefix build-,$(COMMANDS))
$(addprefix build-,$(COMMANDS)): build-%:
	@hack/build.sh $* bin/$(call program,$*) "$(VERSION)"

.PHONY: generate
generate: ## make generated code, CRDs, RBAC and manifests again
	go generate ./...

.PHONY: lint
lint: ## formatting, vet with and without cgo, static analysis, the style rules
	@hack/lint.sh

.PHONY: kube
kube: ## build the lab's Kubernetes (cached)
	@hack/lab/build.sh kube

.PHONY: images
images: build ## build the container images into archives (cached)
	@hack/images.sh

.PHONY: lab-up
lab-up: setup ## start a three-node Kubernetes on this machine
	@hack/lab/lab up $(NODES)

.PHONY: lab-down
lab-down: ## stop it and remove every trace
	@hack/lab/lab down

.PHONY: test
test: ## everything that matters, unit tests to cluster (root)
	@hack/test.sh

.PHONY: unit
unit: ## the stages of test that need no cluster
	@hack/test.sh unit

.PHONY: e2e
e2e: ## the stage of test that needs a lab cluster only
	@hack/test.sh e2e

.PHONY: sim
sim: ## the replication core against its simulator (SEEDS=20000, or SEED=1 again with its trace)
	@hack/sim.sh

.PHONY: model
model: ## the model of replication, exhaustively, and without each of its rules
	@hack/model.sh

.PHONY: attack
attack: build-target build-replica ## faults at random against real processes (root; ROUNDS=100 SEED=1 FIRST=1 LEVEL=one|quorum|all|local|each MIN_VOTERS=1)
	@hack/attack.sh

.PHONY: measure-replication
measure-replication: build-target build-replica ## stalls, latencies with a slow replica, resync (root; about 20 min)
	@hack/attack.sh measure

.PHONY: bench
bench: ## what volumes cost here: CPU per operation, IOPS, latencies (BENCH_TIME=3s; build/bench.json, .svg)
	@hack/bench.sh

.PHONY: bench-compare
bench-compare: ## this tree beside another commit with benchstat (BASE=rev BENCH_ROUNDS=4 BENCH_ONLY=regexp)
	@hack/bench.sh compare

.PHONY: vm-nvme
vm-nvme: ## Debian's kernel against the NVMe/TCP target, in a VM: three to ten minutes
	@hack/setup.sh --vm
	go test -tags conformance -run TestKernel -count 1 -timeout 20m -v ./test/conformance/nvme

.PHONY: vm-iscsi
vm-iscsi: ## Debian's kernel and open-iscsi against the iSCSI target, in a VM: three to ten minutes
	@hack/setup.sh --vm
	go test -tags conformance -run TestKernel -count 1 -timeout 20m -v ./test/conformance/iscsi

.PHONY: vm-zfs
vm-zfs: ## Debian's kernel with zfs-dkms imports what replicas wrote, in a VM: fifteen minutes at first, then three
	@hack/setup.sh --vm
	go test -tags conformance -run TestKernel -count 1 -timeout 40m -v ./test/conformance/zfs

.PHONY: vm-zvol
vm-zvol: ## replicas on the zvols of Debian's kernel, killed and without power, in a VM (CASK_ZVOL_ROUNDS=20): as vm-zfs at first, then ten to twenty minutes
	@hack/setup.sh --vm
	go test -tags conformance -count 1 -timeout 80m -v ./test/conformance/zvol

.PHONY: bench-nvme
bench-nvme: ## the NVMe/TCP target beside tgtd, on memory: two minutes
	@hack/setup.sh --vm
	go test -tags conformance -run TestThroughput -count 1 -timeout 20m -v ./test/conformance/nvme

.PHONY: fuzz
fuzz: ## every fuzz target for a while (FUZZ_TIME=30s FUZZ_WORKERS=1 FUZZ_ONLY=regexp of package/target)
	@hack/fuzz.sh

.PHONY: mutants
mutants: ## break the core's rules one by one: the simulator must notice (SEEDS=2000 each)
	@hack/mutants.sh

.PHONY: demo
demo: ## one volume from nothing to a killed node, on this machine (CLUSTER=existing: the current context)
	@hack/demo.sh up

.PHONY: demo-down
demo-down: ## remove all that demo made
	@hack/demo.sh down

.PHONY: clean
clean: ## remove bin/ (caches stay in ~/.cache/cask)
	rm -rf bin
