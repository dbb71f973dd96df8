# Two commands on a fresh machine: `make report` and `make test`. Each makes .venv itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
DATASET ?= folder
OUT ?= reports
BIN := .venv/bin
READY := .venv/.ready
# Without a set of your own, the run is on drawn faces: it tries out the whole chain and means nothing more.
ROOT ?= $(if $(filter folder,$(DATASET)),$(OUT)/drawn-faces)

.PHONY: report test lab notebooks readme clean

report: $(READY)
	@[ -n "$(ROOT)" ] || { echo "make report DATASET=$(DATASET) ROOT=<the folder with the pictures>"; exit 2; }
	@[ "$(ROOT)" != "$(OUT)/drawn-faces" ] || $(BIN)/python -c "from qcfer.cartoons import draw_faces; draw_faces('$(ROOT)')"
	$(BIN)/qcfer report $(DATASET) --root "$(ROOT)" --out "$(OUT)"

test: $(READY) .venv/.browser
	$(BIN)/ruff check qcfer tests setup.py .ci
	$(BIN)/nbdev_test --n_workers 2
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/jupyter lab nbs

# After editing notebooks: clean them, export the package, write the README.
notebooks: $(READY)
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export

readme: $(READY)
	$(BIN)/python .ci/readme.py

clean:
	rm -rf .venv reports/site reports/cache build dist *.egg-info

$(READY): settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[clip,dev]'
	$(BIN)/nbdev_install_hooks
	@touch $@

# The pages are tested in a real browser; without one those tests are skipped, and say so.
.venv/.browser: $(READY)
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null \
	  || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }
	@touch $@
