# Two commands do everything: "make demo" and "make test". Both install from
# Debian what is missing (make deps), and build what skeind carries inside itself
# (make payload). CI runs .ci/run, which is these same targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := build

GO ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOBUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
CACHE := $(CURDIR)/.cache

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- what a machine needs ----------------------------------------------------

PACKAGES := gcc libc6-dev libseccomp-dev pkg-config iproute2 nftables jq procps zstd

.PHONY: deps
deps: ## install from Debian what building and testing need, if it is missing
	@missing=(); \
	for p in $(PACKAGES); do \
		[[ $$(dpkg-query -W -f '$${Status}' $$p 2>/dev/null) == 'install ok installed' ]] || missing+=($$p); \
	done; \
	if ((!$${#missing[@]})); then exit 0; fi; \
	if ! command -v apt-get >/dev/null || ((UID)); then \
		echo "make deps: as root on Debian this would install: $${missing[*]}" >&2; exit 1; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq update; \
	apt-get -qq install -y --no-install-recommends "$${missing[@]}"

# --- what skeind carries -----------------------------------------------------

RUNC := $(shell awk '$$1 == "github.com/opencontainers/runc" && $$2 ~ /^v/ { print $$2 }' go.mod)
RUNC_DIR := $(CACHE)/runc-$(RUNC)
ARCH := $(shell $(GO) env GOARCH)
FILES := agent/skeind/payload/files

# sources lists the Go files of a program and of what it imports of ours.
sources = $(filter-out %_test.go,$(wildcard $(addsuffix /*.go,$(1))))

.PHONY: payload
payload: $(FILES)/runc.zst $(FILES)/skeeper.zst $(FILES)/demo.tar.zst ## build runc, the keeper and the demo images

# runc is built as its own module, from the dependencies it was released with:
# ours may be newer than what it was tested on.
$(RUNC_DIR)/runc:
	rm -rf $(RUNC_DIR)
	mkdir -p $(RUNC_DIR)
	cp -r "$$($(GO) mod download -json github.com/opencontainers/runc@$(RUNC) | jq -r .Dir)" $(RUNC_DIR)/src
	chmod -R u+w $(RUNC_DIR)/src
	cd $(RUNC_DIR)/src && CGO_ENABLED=1 GOWORK=off GOFLAGS=-mod=readonly $(GO) build -trimpath -buildvcs=false \
		-tags 'seccomp netgo osusergo urfave_cli_no_docs' -ldflags '-s -w -extldflags -static' -o $(RUNC_DIR)/runc .
	rm -rf $(RUNC_DIR)/src

# The folder's name has the version in it, so an upgrade builds and an edit of
# go.mod that has nothing to do with runc does not.
bin/payload/runc: $(RUNC_DIR)/runc
	mkdir -p $(@D)
	install -m 0755 $< $@

bin/payload/skeeper: $(call sources,runtime/keeper runtime/keeper/skeeper)
	mkdir -p $(@D)
	$(GOBUILD) -ldflags '-s -w' -o $@ ./runtime/keeper/skeeper

bin/payload/demo: $(call sources,runtime/image/demo)
	mkdir -p $(@D)
	$(GOBUILD) -ldflags '-s -w' -o $@ ./runtime/image/demo

bin/payload/demo.tar.zst: bin/payload/demo $(call sources,runtime/image/demo/mkimage)
	$(GO) run -buildvcs=false ./runtime/image/demo/mkimage bin/payload/demo $(ARCH) $@

$(FILES)/%.zst: bin/payload/%
	zstd -q -f -19 -T1 $< -o $@

$(FILES)/demo.tar.zst: bin/payload/demo.tar.zst
	install -m 0644 $< $@

# --- building ----------------------------------------------------------------

.PHONY: build
build: deps payload ## bin/skeind and bin/skein (default)
	$(GOBUILD) -ldflags '-s -w -X main.version=$(VERSION) -X github.com/skein-dev/skein/cli.version=$(VERSION)' -o bin/ ./agent/skeind ./cli/skein

.PHONY: clean
clean: ## remove all that was built, tools and caches of this folder too
	rm -rf bin $(CACHE)
	find $(FILES) -type f ! -name .placeholder -delete

# --- checking ----------------------------------------------------------------

# The tools are pinned in go.tool.mod and built once for each state of it.
TOOLS := $(CACHE)/tools-$(shell cat go.tool.mod go.tool.sum | sha256sum | cut -c1-12)
TOOL_PACKAGES := github.com/bufbuild/buf/cmd/buf \
	connectrpc.com/connect/v2/cmd/protoc-gen-connect-go google.golang.org/protobuf/cmd/protoc-gen-go \
	mvdan.cc/gofumpt github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: tools
tools: $(TOOLS)/done
$(TOOLS)/done:
	rm -rf $(CACHE)/tools-*
	mkdir -p $(TOOLS)
	CGO_ENABLED=0 $(GO) build -modfile=go.tool.mod -buildvcs=false -ldflags '-s -w' -o $(TOOLS)/ $(TOOL_PACKAGES)
	touch $@

# Nothing that is checked needs cgo, and a machine without gcc checks the same.
.PHONY: check
check: export PATH := $(TOOLS):$(PATH)
check: export CGO_ENABLED := 0
check: $(TOOLS)/done ## format, vet, linters, proto, generated code, other systems
	@unformatted=$$(gofumpt -l $$(git ls-files -co --exclude-standard -- '*.go' ':!proto')); \
	if [[ $$unformatted ]]; then printf 'not as gofumpt would have it:\n%s\n' "$$unformatted" >&2; exit 1; fi
	$(GO) vet ./...
	golangci-lint run
	buf lint
	@$(MAKE) --no-print-directory check-breaking check-generated
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cli/skein
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./cli/skein

# BASE is what the protocol is compared with: where this branch left the main
# one, or the commit before, once it is the main one.
BASE ?= $(shell base=$$(git merge-base HEAD origin/main 2>/dev/null) || exit 0; \
	[[ $$base != $$(git rev-parse HEAD) ]] && echo $$base || git rev-parse -q --verify HEAD~1)

.PHONY: check-breaking check-generated
check-breaking check-generated: export PATH := $(TOOLS):$(PATH)
check-breaking check-generated: $(TOOLS)/done
check-breaking:
	@if [[ -z "$(BASE)" ]]; then echo 'buf breaking: no origin/main to compare with (BASE=… names another)'; \
	elif ! git cat-file -e '$(BASE):buf.yaml' 2>/dev/null; then echo 'buf breaking: nothing there to break yet'; \
	else rm -rf $(CACHE)/base; mkdir -p $(CACHE)/base; git archive '$(BASE)' buf.yaml proto | tar -x -C $(CACHE)/base; \
		set -x; buf breaking --against $(CACHE)/base; fi

check-generated:
	@rm -rf $(CACHE)/generated
	buf generate -o $(CACHE)/generated
	@cd $(CACHE)/generated; for f in $$(find . -name '*.go'); do \
		cmp -s $$f $(CURDIR)/$$f || { echo "$$f is not what buf generates: run make generate" >&2; exit 1; }; done

.PHONY: generate
generate: export PATH := $(TOOLS):$(PATH)
generate: $(TOOLS)/done ## write the code that comes from proto
	buf generate

# --- testing -----------------------------------------------------------------

.PHONY: root
root:
	@((UID == 0)) || { echo 'this needs root: containers, namespaces, mounts and nftables are tried on the real kernel' >&2; exit 1; }

.PHONY: test
test: root deps payload ## the whole suite, on the real kernel; needs root
	$(GO) test -race -shuffle=on -p 2 -timeout 15m ./...

# Each target by itself, one after the other, for FUZZTIME. What it finds lands in
# the testdata of its package and fails "make test" until it is mended.
FUZZTIME ?= 30s

.PHONY: fuzz
fuzz: payload ## every fuzz target for FUZZTIME (30s) each
	@grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r package; do \
		grep -hoE '^func Fuzz[A-Za-z]+' "$$package"/*_test.go | cut -d' ' -f2 | while read -r target; do \
			echo "== $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -parallel 2 "$$package" </dev/null || exit 1; \
		done || exit 1; \
	done

# SEED repeats one simulation, RUNS says how often, or how many seeds from FROM on.
# Failures leave their events in .cache/sim.
SIM = mkdir -p $(CACHE)/sim && CGO_ENABLED=0 GOGC=400 $(GO) test -count=1 -timeout 0 ./agent/agenttest -v -run '^TestSimulation$$' -keep $(CACHE)/sim
SEED ?= 0
FROM ?= 1
RUNS ?= $(if $(filter-out 0,$(SEED)),10,150)

.PHONY: sim
sim: ## whole clusters in virtual time: SEED=n repeats one, RUNS=n says how many
	$(SIM) -seed $(SEED) -from $(FROM) -runs $(RUNS)

.PHONY: sim-raft
sim-raft: ## raft alone in virtual time, on modelled disks and a modelled network: RUNS=n says how many
	CGO_ENABLED=0 $(GO) test -count=1 -timeout 0 ./consensus -v -run '^TestAgreementUnderFaults$$' -sim.seeds=$(RUNS)

.PHONY: soak
soak: ## simulate until told to stop, or until something fails
	@from=$$(date +%s); while $(SIM) -from $$from -runs 50 | tail -3; do from=$$((from + 50)); done

.PHONY: sim-bugs
sim-bugs: ## plant bugs one by one, and see after how many simulations each is found
	CGO_ENABLED=0 GOGC=400 $(GO) test -count=1 -timeout 0 ./agent/agenttest -v -run '^TestPlantedBugsAreFound$$' -plant

.PHONY: bench
bench: root build images ## what skein does on this machine, a line a figure (RUN=regexp of chapters, N=runs, MACHINES=simulated agents)
	@$(MAKE) --no-print-directory deps PACKAGES='skopeo umoci containerd'
	$(GO) build -buildvcs=false -o bin/bench ./agent/agenttest/bench
	bin/bench -n $(or $(N),20) -run '$(RUN)' -machines $(or $(MACHINES),1000)

.PHONY: bench-packages
bench-packages: root deps payload ## the benchmarks of every package
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: demo
demo: root build ## a cluster, a Deployment, two machines that lose power; leaves nothing
	bash agent/lab/demo.sh

.PHONY: lab
lab: root build ## leave a cluster of three up on this machine, and say what to try
	bin/skeind lab up

# Images of well-known programs, made of Debian's packages, and a real registry
# to hold them.
IMAGES := $(CACHE)/images
IMAGE_PACKAGES := mmdebstrap docker-registry

.PHONY: images
images: root deps ## images of nginx, redis, postgres, apache and python from Debian's packages, for lab-test
	@$(MAKE) --no-print-directory deps PACKAGES='$(IMAGE_PACKAGES)'
	bash agent/lab/images/build.sh $(IMAGES)

.PHONY: lab-test
lab-test: root build images ## real agents in namespaces: join, deploy, cut the power, watch it heal
	$(GO) test -count=1 -timeout 15m -tags lab ./agent/lab/...

# A Debian of packages alone, booted under software emulation. What it takes to
# make and boot one is installed by this target only; the image is made once.
VM_PACKAGES := mmdebstrap qemu-system-x86 qemu-utils e2fsprogs

.PHONY: vm-test
vm-test: root build ## skein under systemd in a virtual machine, with cgroup v2
	@$(MAKE) --no-print-directory deps PACKAGES='$(VM_PACKAGES)'
	bash agent/lab/vm/run.sh

.PHONY: vagrant-validate
vagrant-validate: ## the Vagrantfile, by Debian's vagrant, which it installs
	@$(MAKE) --no-print-directory deps PACKAGES=vagrant
	for n in 1 3 9; do NODES=$$n VAGRANT_HOME=$(CACHE)/vagrant vagrant validate --ignore-provider; done
