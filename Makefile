# `make help` lists what there is.

.PHONY: help build install uninstall test demo soak check deps clean bench bench-keepalived
.DEFAULT_GOAL := help

# Where cargo puts what it builds.
target := $(abspath $(or $(CARGO_TARGET_DIR),target))

help:
	@echo 'make demo    build, and show the mesh at work'
	@echo 'make test    run the checks and all tests (in a VM if this kernel has no IPVS)'
	@echo 'make soak    the same, every test on every kernel, with 100,000 requests, faults at every point, 1,000'
	@echo '             sequences of the model, an upgrade from the commit before, firewalld, ufw, Docker and others started,'
	@echo '             reloaded and restarted beside it, and fuzzing'
	@echo 'make bench   measure, in a VM that counts instructions (bench/README.md)'
	@echo 'make check   formatting, lints and the tests that need no kernel'
	@echo 'make build   build the release binary'
	@echo 'make install install what was built (DESTDIR, PREFIX=/usr); make uninstall removes it'
	@echo 'make deps    install the packages that are missing'
	@echo 'make clean   remove what was built'

deps:
	@scripts/deps

build:
	@scripts/deps build
	cargo build --release --locked --bins --examples

# As root, who may have no compiler: so it does not build.
install uninstall: export MESHD_BIN_DIR ?= $(target)/release

install:
	@scripts/install

uninstall:
	@scripts/install --uninstall

test: deps
	@scripts/test

soak: deps
	@MESHD_PREVIOUS=$$(scripts/previous) && export MESHD_PREVIOUS && \
		MESHD_REQUESTS=100000 MESHD_FAULT_POINTS_EACH=10000 MESHD_MODEL_SEQUENCES=1000 MESHD_CONNECTIONS=50000 \
		MESHD_BESIDE=1 MESHD_TEST_LIMIT=100000 VM_TIMEOUT=100000 scripts/test --all
	@scripts/fuzz 300

check:
	@scripts/deps build test
	@scripts/test --native-only

# The demo needs root and IPVS, or what nftables needs in its place: on this kernel if it has either, else in a VM.
demo: export MESHD_BIN_DIR := $(target)/release
demo: deps build
	@if [ "$$(scripts/where)" = host ] || [ "$$(scripts/where nftables)" = host ]; then \
		if [ "$$(id -u)" = 0 ]; then scripts/demo; else sudo --preserve-env=MESHD_BIN_DIR,PATH,TERM scripts/demo; fi; \
	else \
		echo 'Neither IPVS nor nftables can balance by this kernel: the demo runs in a VM (tests/vm/run).'; \
		tests/vm/run -- scripts/demo; \
	fi

# Ways to a backend and the control plane, by counted instructions (bench/README.md).
bench: deps ; @bench/run

# Beside keepalived, on the same script (bench/keepalived says what is compared).
bench-keepalived: deps build ; @MESHD_BIN_DIR=$(target)/release bench/keepalived

clean:
	cargo clean
