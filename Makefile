# Each target makes the virtual environment it needs. Python 3.11 or newer and make are all that is presumed.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
# What bench-pruning prunes.
NETWORKS ?= vgg16_bn resnet18 mobilenet_v2 shufflenet_v2

.PHONY: demo up test chaos check format bench-pruning bench-deep bench-serving bench-training clean

demo: $(INSTALLED)  ## train, prune and serve a small network on real digits
	@$(BIN)/pruneyard demo

up: $(INSTALLED)  ## API and one worker until Ctrl-C
	@$(BIN)/pruneyard up

# Hundreds of processes read the same modules: what one has compiled, the others need not.
test: $(INSTALLED)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

chaos: $(INSTALLED)  ## kills in all phases and at random, all fault points, full disks, races, claims, restarts of PostgreSQL, resumes; an hour or so
	CHAOS_RESUMES=80 $(BIN)/python -m pytest -q tests/nets/test_nets_resuming.py
	CHAOS_PHASES=all $(BIN)/python -m pytest -q tests/workers/test_workers_killed.py
	CHAOS_JOBS=40 CHAOS_EPOCHS=450 CHAOS_KILLS=200 CHAOS_PAUSE=5 CHAOS_WORKERS=2 CHAOS_STRIDE=1 CHAOS_ROUNDS=200 \
	  CLAIM_PROCESSES=8 CLAIM_JOBS=1000 CLAIM_RESTARTS=20 $(BIN)/python -m pytest -q -s tests/chaos

check: $(INSTALLED)  ## format, lint, types, imports, sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Pruneyard needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@echo "Installing into $(VENV): some minutes the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

bench-pruning: $(INSTALLED)  ## pruning, int8 and both, 3 seeds, against dense networks; FOLDER has train/ and test/
	$(BIN)/python -m benchmarks.pruning "$(FOLDER)" --home "var/pruning-$(notdir $(FOLDER:/=))" --networks $(NETWORKS) \
	  --peers --json pruning.json

bench-deep: $(INSTALLED)  ## the smallest files: weights cut in rounds of long retraining, int8
	$(BIN)/python -m benchmarks.pruning "$(FOLDER)" --home "var/pruning-$(notdir $(FOLDER:/=))" --networks vgg16_bn mlp \
	  --speedups --sparsities 0.9 --deep --json deep.json

bench-serving: $(INSTALLED)  ## predictions beside FastAPI, LitServe, MLServer and BentoML; needs wrk
	$(BIN)/python -m benchmarks.serving --json serving.json

bench-training: $(INSTALLED)  ## our training loop against the plain one, for every family of networks
	$(BIN)/python -m benchmarks.training --compiled --json training.json

clean:
	rm -rf $(VENV) var build *.egg-info
