# Two commands on a fresh machine: `make demo` and `make test`. Each sets up what it needs; a second call is instant.
#
#   make demo                      the whole pipeline on handwritten digits, a few minutes on two CPU cores
#   make demo ARGS="processes=2"   the same in a run directory of its own, with anything that `python -m launch run` takes
#   make demo ENGINE=deepspeed     the same with another engine, in a run directory of its own
#   make check                     format, lint, types and the quick tests: two to four minutes
#   make test                      all tests
#   make lint                      format, lint and types
#   make pictures                  docs/pictures anew: the demo's report and terminal, seen with Chromium
#   make setup                     only .venv, with the exact files of requirements.lock
#   make docs                      the documentation as a site, build/site/index.html; links and anchors are checked
#   make lock                      the locks anew after a change in pyproject.toml; versions stay where they can

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
READY := $(VENV)/.ready
DOCS_VENV := build/docs_venv
DOCS_READY := $(DOCS_VENV)/.ready
ARGS ?=
ENGINE ?=

# The run directory of a variation is named by the engine and by the keys in ARGS: demo_deepspeed, demo_processes_2.
SPACE := $(subst ,, )
SET := $(foreach word,$(ARGS),$(if $(findstring =,$(word)),$(filter-out -%,$(subst ',,$(subst ",,$(word))))))
VARIATION := $(subst $(SPACE),_,$(subst /,_,$(subst =,_,$(strip $(ENGINE) $(SET)))))

# Where it is set, each of the many processes compiles PyTorch's Python code anew, and that takes longer than the rest of
# its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo check test lint pictures setup docs lock
.DEFAULT_GOAL := demo

demo: $(READY)
	$(VENV)/bin/python -m launch run configs/demo.yaml $(ENGINE:%=engine=%) $(VARIATION:%=--run "runs/demo_%") $(ARGS)

test: $(READY)
	$(VENV)/bin/python -m pytest $(ARGS)

check: lint
	$(VENV)/bin/python -m pytest -q -m 'not (processes or slow or slurm or faults or gpu)' $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

pictures: $(READY)
	$(VENV)/bin/python -m tests.pictures

setup: $(READY)

docs: $(DOCS_READY)
	rm -rf build/docs && mkdir build/docs
	cp --recursive --parents README.md C* LICENSE configs docs launch pipeline slurm stages tests build/docs
	cp docs/mkdocs.yml build
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --strict --config-file build/mkdocs.yml

lock: COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command 'make lock'
lock: $(READY)
	$(COMPILE) --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --group docs --output-file docs/requirements.lock

$(READY): requirements.lock pyproject.toml
	@[ "$$(uname -sm)" = 'Linux x86_64' ] || \
	  { echo "Linux on x86-64 is needed (this is $$(uname -sm)); use the container of docs/install.md" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo 'Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(VENV)/bin/uv pip sync --python $(VENV)/bin/python --require-hashes requirements.lock
	$(VENV)/bin/uv pip install --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

$(DOCS_READY): docs/requirements.lock
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@
