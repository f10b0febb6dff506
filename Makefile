# make demo: train, look, compare.   make test: everything is tested.   Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO ?= demo
UV := uv==0.13.8

.PHONY: setup demo test lint format bench lock clean

setup: $(READY)

# uv installs the pinned versions, checked by their hashes, in seconds; pip does the same in minutes where uv cannot
# (it does not read pip's own settings, such as a mirror).
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tasvir needs Python 3.11 or later; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock || \
	    $(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Two families on the built-in faces, compared on one page; about four minutes on 2 cores. Stopped half way, it goes on.
TRAIN_ON_FACES = --data cartoons --data.size 32 --train.log-every 100 --train.sample-every 150 --train.average 0.995

demo: setup
	@if test -f $(DEMO)/vae/config.yaml; then $(BIN)/tasvir resume $(DEMO)/vae; else \
	    $(BIN)/tasvir train vae $(TRAIN_ON_FACES) --train.steps 1200 --out $(DEMO)/vae; fi
	@if test -f $(DEMO)/dcgan/config.yaml; then $(BIN)/tasvir resume $(DEMO)/dcgan; else \
	    $(BIN)/tasvir train dcgan $(TRAIN_ON_FACES) --train.steps 1500 --train.batch-size 32 --model.width 256 \
	    --train.evaluate-every 0 --out $(DEMO)/dcgan; fi
	@$(BIN)/tasvir sample $(DEMO)/dcgan -n 64 --out $(DEMO)/samples.png
	@$(BIN)/tasvir reconstruct $(DEMO)/vae -n 32 --out $(DEMO)/reconstructions.png
	@$(BIN)/tasvir interpolate $(DEMO)/vae -n 8 --out $(DEMO)/interpolation.png
	@$(BIN)/tasvir report $(DEMO)/vae
	@$(BIN)/tasvir report $(DEMO)/dcgan
	@$(BIN)/tasvir report $(DEMO)/vae $(DEMO)/dcgan --out $(DEMO)/index.html
	@echo && echo "Open $(DEMO)/index.html in a browser."

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python bench/steps.py
	$(BIN)/python bench/adversarial.py
	$(BIN)/python bench/translation.py
	$(BIN)/python bench/data.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/fuzz.py

# Pin anew; keeps versions that still fit. The lock names versions and hashes only.
lock: setup
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --no-header --no-emit-index-url --output-file requirements.lock

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache
