# Every command of the project. `pixi run NAME` runs the same ones.
#
#   make install        .venv with what the lock file names; the others call it
#   make install-peers  MAX's own manager and models beside it, for tests/peers
#   make install-torch  torch beside it, for kvcache.pools and its tests
#   make demo           eight conversations with a real model
#   make test           the tests that need neither a GPU nor minutes each
#   make check          format, lint, types, docs, imports, agreement of the files
#   make bench          every benchmark, beside its peers
#   make test-gpu       the tests for a machine with a GPU
#   make compile-gpu    the kernels for a GPU, on a machine without one
#   make lock           both lock files, after a change of the dependencies
#
# PYTHON=python3.13 picks the interpreter, VENV=folder the environment's place,
# TESTS="tests/python -k pool" what `make test` runs, WORKERS=4 how many tests at
# a time; 0 is one, in this process.

VENV ?= .venv
BIN ?= $(VENV)/bin
# Empty where something else, such as pixi, has made the environment.
READY ?= $(VENV)/.installed
PYTHON ?=
TESTS ?= tests
WORKERS ?= 2
BENCHMARKS := $(sort $(wildcard benchmarks/bench_*.py))
CHECKS := format mojo-format lint types mojo-docs structure

.PHONY: install install-peers install-torch demo test check bench test-gpu compile-gpu lock $(CHECKS:%=check-%)

install: $(READY)

install-peers: $(READY) $(READY:%.installed=%.peers)

install-torch: $(READY) $(READY:%.installed=%.torch)

demo: $(READY)
	$(BIN)/kvcache demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope \
	  --no-loadscope-reorder $(TESTS)

test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

compile-gpu: $(READY)
	$(BIN)/python -m tools.compile_for_gpu

# Runs every check, then names those that failed.
check: $(READY)
	@failed=; for check in $(CHECKS); do \
	  echo "== $$check"; \
	  $(MAKE) --no-print-directory check-$$check || failed="$$failed $$check"; \
	done; \
	if [ -n "$$failed" ]; then echo "make check: failed:$$failed"; exit 1; fi; \
	echo "make check: all passed"

check-format:
	@$(BIN)/ruff format --check .

check-mojo-format:
	@$(BIN)/mblack --check mojo tests

check-lint:
	@$(BIN)/ruff check .

check-types:
	@$(BIN)/mypy

check-mojo-docs:
	@$(BIN)/mojo doc --diagnose-missing-doc-strings --Werror -o /dev/null mojo/kvcache
	@$(BIN)/mojo doc --diagnose-missing-doc-strings --Werror -o /dev/null mojo/kvcore

check-structure:
	@$(BIN)/python -m pytest --quiet tests/structure

bench: $(READY) $(READY:%.installed=%.bench)
	@for file in $(BENCHMARKS:benchmarks/%.py=%); do \
	  echo "== $$file"; $(BIN)/python -m benchmarks.$$file || exit 1; \
	done

lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --generate-hashes --no-annotate --no-header --output-file \
	  requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --extra peers --constraint requirements.lock --generate-hashes \
	  --no-annotate --no-header --output-file requirements-peers.lock \
	  pyproject.toml

# CPython 3.11 to 3.13 that can make an environment; the first one found.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

$(VENV)/.installed: pyproject.toml requirements.lock
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if $$python -c '$(USABLE)' 2>/dev/null; then break; fi; python=; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "make install: wanted CPython 3.11, 3.12 or 3.13 with its venv" \
	    "module; found none. Name one: make install PYTHON=/path/to/python3"; \
	  exit 1; \
	fi; \
	echo "make install: $$($$python --version) in $(VENV)"; \
	$$python -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes \
	  --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --no-deps --editable .
	@touch $@

# What `max.pipelines` imports, on top of what the other lock file names.
$(VENV)/.peers: $(VENV)/.installed requirements-peers.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes \
	  --requirement requirements-peers.lock
	@touch $@

# Where pip finds a CPU wheel of torch (PIP_FIND_LINKS), it takes that; elsewhere it
# downloads the CUDA one. No lock: the wheels' hashes differ.
$(VENV)/.torch: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --editable '.[torch]'
	@touch $@

# What the benchmarks compare with.
$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --editable '.[bench]'
	@touch $@
