# The same targets at home and in CI. Each installs what it needs first (scripts/setup.sh), and says so.
#
#   make demo            a gateway with a real database, people and data, and lines to paste
#   make demo CHECK=1    the same, run and checked by itself
#   make test            format, lints, dependency rules, all tests
#   make bench           all benchmarks; ONLY=rest for a group, ONLY=audit/spool for a part, JSON=1 for one JSON object a
#                        line, BRIEF=1 without the run over a million requests
#   make fuzz            the fuzz targets on this toolchain, bounded; SECONDS_EACH=60 for longer

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(PATH):$(CURDIR)/.cache/tools/bin

CHECK ?=
ONLY ?=
JSON ?=
BRIEF ?=
SECONDS_EACH ?= 10

.PHONY: help demo test bench lint fuzz

help:
	@sed -n 's/^#   //p' Makefile

demo:
	@scripts/setup.sh demo
	cargo build -p doorward -p doorward-demo
	@target/debug/doorward-demo $(if $(CHECK),--check)

test: lint
	@scripts/setup.sh test
	cargo build --workspace --bins
	cargo test --workspace

lint:
	@scripts/setup.sh lint
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check bans licenses sources

bench:
	@scripts/setup.sh bench
	cargo build --release -p doorward -p doorward-benches
	@target/release/doorward-benches $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json) $(if $(BRIEF),--brief)

fuzz:
	@scripts/setup.sh lint
	DOORWARD_FUZZ_SECONDS=$(SECONDS_EACH) cargo test --release -p doorward-tests --test it -- fuzz --nocapture
