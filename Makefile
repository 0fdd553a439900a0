# `make demo` and `make test` set up all they need: Python >= 3.11 and make suffice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := sidecar tests proto
FUZZ_SECONDS ?= 300

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test unit integration e2e check lint fmt types imports policy bench bench-envoy bench-large chaos soak fuzz lock clean

help:  ## Say what can be made
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */|/' | awk -F'|' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Make .venv with everything that the lock names
	@$(BIN)/sidecar doctor --servers-only

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, {v.major}.{v.minor} was found; run: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: $(STAMP)  ## Show it: real Envoy, Redis and Postgres, real traffic, a Stripe stand-in
	@$(BIN)/sidecar demo $(ARGS)

serve: $(STAMP)  ## Run all roles with the example policy and embedded stores
	@$(BIN)/sidecar serve $(ARGS)

test: $(STAMP)  ## Run every test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

unit: $(STAMP)  ## Run the tests that need no server
	$(BIN)/python -m pytest tests/unit tests/contract $(ARGS)

integration: $(STAMP)  ## Run the tests on real Redis and Postgres
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/integration tests/property $(ARGS)

e2e: $(STAMP)  ## Run the tests through a real Envoy
	$(BIN)/python -m pytest tests/e2e $(ARGS)

check: lint types imports policy  ## Run every check that is no test

lint: $(STAMP)  ## Check form and style
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

fmt: $(STAMP)  ## Mend form
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

types: $(STAMP)  ## Check types
	$(BIN)/mypy

imports: $(STAMP)  ## Check that imports point one way
	$(BIN)/lint-imports

policy: $(STAMP)  ## Check the example policy as an operator would, and the cases of imported rules
	$(BIN)/sidecar rules lint config/policy
	$(BIN)/sidecar rules test config/policy
	@$(BIN)/sidecar rules conformance tests/data/moesif/governance_cases.json | tail -n 1

bench: $(STAMP)  ## Measure checks, usage intake, settlement, policies, growth, start and idling on this machine, beside peers in Go if there is one
	$(BIN)/python -m pytest tests/bench -q -s -m "not large and not envoy" --timeout 600 -p no:xdist $(ARGS)

bench-envoy: $(STAMP)  ## Measure requests through a real Envoy, with and without Sidecar
	$(BIN)/python -m pytest tests/bench -q -s -m envoy --timeout 600 -p no:xdist $(ARGS)

bench-large: $(STAMP)  ## Measure settling into tables of 5 million events
	$(BIN)/python -m pytest tests/bench -q -s -m large --timeout 3600 -p no:xdist $(ARGS)

chaos: $(STAMP)  ## Kill 1,000 workers at every point of eleven jobs, from settling to top-ups, and 300 that collect by each provider, with providers that fail 30 % of the time; and one at each step of a webhook
	SIDECAR_CHAOS_KILLS=1000 $(BIN)/python -m pytest tests/chaos -q -s -p no:xdist $(ARGS)
	SIDECAR_COLLECT_INVOICES=100 SIDECAR_COLLECT_KILLS=100 $(BIN)/python -m pytest tests/integration/test_collecting_deaths.py -q --timeout 3600 -p no:xdist $(ARGS)
	SIDECAR_WEBHOOK_KILLS=1000 $(BIN)/python -m pytest tests/integration/test_inbox_crash.py -q -s -p no:xdist $(ARGS)

soak: $(STAMP)  ## Simulate 200,000 requests with lost, repeated and reordered usage and crashes; all orders of credit; losses of the store; bursts; replay 100,000 decisions
	SIDECAR_SIM_REQUESTS=200000 $(BIN)/python -m pytest tests/property/test_simulation.py -q -s -p no:xdist $(ARGS)
	SIDECAR_CREDIT_EXAMPLES=3000 SIDECAR_CREDIT_SHRINK=1 $(BIN)/python -m pytest tests/property/test_hold_machine.py tests/property/test_allotment_machine.py -q -s --timeout 7200 -p no:xdist $(ARGS)
	SIDECAR_CREDIT_STATES=100000 $(BIN)/python -m pytest tests/property/test_credit_orders.py -q -s --timeout 1800 -p no:xdist $(ARGS)
	SIDECAR_LOSS_SEQUENCES=1000 $(BIN)/python -m pytest tests/property/test_loss_machine.py -q -p no:xdist $(ARGS)
	SIDECAR_WEBHOOK_SHUFFLES=20000 $(BIN)/python -m pytest tests/property/test_webhook_shuffles.py -q -p no:xdist $(ARGS)
	SIDECAR_LOSS_ORDERS=2000 $(BIN)/python -m pytest tests/property/test_loss_orders.py -q -p no:xdist $(ARGS)
	SIDECAR_BURST_ROUNDS=20 $(BIN)/python -m pytest tests/integration/test_burst.py -q -s -p no:xdist $(ARGS)
	SIDECAR_REPLAY_DECISIONS=100000 $(BIN)/python -m pytest tests/unit/test_replay_world.py -q -s -p no:xdist $(ARGS)

fuzz: $(STAMP)  ## Feed the fast gRPC engine frames and headers of any kind, FUZZ_SECONDS (300) each
	@mkdir -p build/fuzz/frames build/fuzz/headers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --target build/fuzz/atheris --upgrade -r tests/fuzz/requirements.txt
	PYTHONPATH=build/fuzz/atheris $(BIN)/python tests/fuzz/fast_engine.py frames build/fuzz/frames -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/frames-
	PYTHONPATH=build/fuzz/atheris $(BIN)/python tests/fuzz/fast_engine.py headers build/fuzz/headers -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/headers-

lock: $(STAMP)  ## Resolve the lock anew (needs uv)
	uv pip compile --universal --generate-hashes --no-emit-index-url --python-version 3.11 --all-extras pyproject.toml -o requirements.lock

clean:  ## Remove what `make` made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
