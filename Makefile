# Every target does its own set-up; a second run needs no network.
MAKEFLAGS += --no-print-directory
PYTHON = .venv/bin/python
TESTS = tests
# Guests wait more than they work, so that one test more than there are processors keeps these busy; 0: one after the other.
WORKERS = $(shell echo $$(($$(nproc) + 1)))

.PHONY: demo test bench setup clean help

demo: ## two guests on a private bridge, in a network namespace of their own, and everything taken back
	@.ci/setup
	@$(PYTHON) .ci/demo

test: ## all tests (one part: make test TESTS=tests/unit)
	@.ci/setup --dev
	@$(PYTHON) -m pytest -n $(WORKERS) $(TESTS)

bench: ## what a start and taps cost here
	@.ci/setup --dev
	@$(PYTHON) -m tests.bench

setup: ## packages, virtual environment and guest kernel alone
	@.ci/setup

clean: ## remove what the targets above made in this tree
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile
