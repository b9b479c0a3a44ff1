# Every target does its own set-up; a second run needs no network.
MAKEFLAGS += --no-print-directory
PYTHON = .venv/bin/python
TESTS = tests
# Tests wait about as much as they work: two processes more than there are processors keep these busy. 0 is no process
# but make's own, which is faster for a few files.
WORKERS = $(if $(findstring .py,$(TESTS)),0,$(shell n=$$(nproc); echo $$((n < 7 ? n + 2 : 8))))

.PHONY: demo test test-in-guest test-disk-guest bench setup clean help

demo: ## two guests on a private bridge, in a network namespace of their own, and everything taken back
	@.ci/setup
	@$(PYTHON) .ci/demo

test: ## all tests (one part: make test TESTS=tests/unit)
	@.ci/setup --dev
	@$(PYTHON) -m pytest -n $(WORKERS) $(TESTS)

test-in-guest: ## what this kernel lacks (VLANs, netem, vhost-net), below a distribution's kernel in a guest; as root
	@.ci/setup --dev
	@$(PYTHON) -m tests.inguest

test-disk-guest: ## a Debian is installed into a disk image, boots under a lab file, and is used and shut down; as root
	@.ci/setup --dev
	@$(PYTHON) -m tests.disk

bench: ## what a start and taps cost here
	@.ci/setup --dev
	@$(PYTHON) -m tests.bench

setup: ## packages, virtual environment and guest kernel alone
	@.ci/setup

clean: ## remove what the targets above made in this tree
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile
