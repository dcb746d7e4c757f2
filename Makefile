# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs; a second call is instant.
#
#   make demo                      the whole pipeline on handwritten digits, a few minutes on two CPU cores
#   make demo ARGS="processes=2"   the same, with anything that `python -m launch run` takes
#   make demo ENGINE=deepspeed     the same with another engine, in a run directory of its own
#   make check                     format, lint, types and the quick tests: two to four minutes
#   make test                      all tests
#   make lint                      format, lint and types
#   make setup                     only .venv, with the exact versions of requirements.lock

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
READY := $(VENV)/.ready
ARGS ?=
ENGINE ?=

# Where it is set, each of the many processes compiles PyTorch's Python code anew, and that takes longer than the rest of
# its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test lint setup
.DEFAULT_GOAL := demo

demo: $(READY)
	$(VENV)/bin/python -m launch run configs/demo.yaml $(if $(ENGINE),engine=$(ENGINE) --run runs/demo_$(ENGINE)) $(ARGS)

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

check: lint
	$(VENV)/bin/python -m pytest -q -m 'not (processes or slow or slurm or faults or gpu)' $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or later is needed; name one with: make PYTHON=python3.12' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(VENV)/bin/uv pip sync --python $(VENV)/bin/python requirements.lock
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
