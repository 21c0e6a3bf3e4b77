## House
.PHONY: status switch test test-fast test-slow lint-code modules prove-interruptions clean distclean
# With a question mark: what not every run has is listed where something of it is there or was tried.
STAGES := data?=$(REPORTS)/dataset.json core?=$(REPORTS)/core.json train?=$(REPORTS)/moe.$(MODE).json \
  repair-loop?=$(REPORTS)/repair.json gguf=$(BF16) lint?=$(LINTED) imatrix=$(IMATRIX) parity=$(REPORTS)/parity.json \
  $(foreach name,$(KXL),$(name)=$(patsubst %,$(FIXED),$(name))) \
  $(addprefix eval=,$(filter-out $(patsubst %,$(FIXED),$(KXL)),$(QUANT_EVALS))) \
  $(addprefix mlx-evals=,$(call MLX_EVAL,bf16)) hermes-live?=$(patsubst %,$(LIVE),$(QUANT)) \
  $(addprefix hard?=,$(HARD_EVALS)) \
  quants=$(REPORTS)/quants.json sizes=$(SIZES) release-summary=$(SUMMARY) card=$(CARD) release=$(HEAVY)/release
# What make would make again is asked of make itself. Version 3.81 does not say why.
ASKED = $(foreach stage,$(STAGES),$(lastword $(subst =, ,$(stage)))) $(patsubst %,$(GGUF),$(KXL))
status: $(VENV)  ## where this run stands: what is done, stale or failed, how long it took, what to run next
	@{ $(MAKE) --no-print-directory --keep-going --dry-run $(if $(filter 3.%,$(MAKE_VERSION)),,--trace) $(ASKED) \
	  2>/dev/null || true; } | $(PY) scripts/status.py $(addprefix --stage ,$(STAGES)) --history $(HERMES_KXL_HISTORY) \
	  --pending --run $(RUN) $(if $(OURS),--claims) --again "$(if $(OURS),,RUN=$(RUN))"
switch:  ## let a run go on with another CONFIG, MODEL, TRACES, ROWS, TRAINING or REVISION; says what is made again
	@$(PYTHON) scripts/settings.py --switch $(GIVEN)

PYTEST := env -u HERMES_KXL_HISTORY $(PY) -m pytest
test: lint-code llama-ready box bfcl-cases  ## all tests but the slow proofs, and the linter
	$(PYTEST) -m "not slow"
test-fast: lint-code  ## what one wants after each edit: no server, no training (under two minutes)
	$(PYTEST) -m "not slow and not minutes"
# The weights of the quick SmolLM training are fetched here, so that pytest itself runs offline.
test-slow: llama-ready box smol-data  ## the slow proofs: ten thousand mutations of each reader, long trainings
	$(PYTEST) -m slow
lint-code: $(VENV)  ## layout and usual mistakes, by ruff
	.venv/bin/ruff format --check --quiet scripts tests patches
	.venv/bin/ruff check --quiet scripts tests patches

modules: $(VENV)  ## docs/modules.md again: every script and module with what it is
	$(PY) scripts/list_modules.py --out docs/modules.md
prove-interruptions: llama-ready  ## kill, double and starve each target of the line: it ends as undisturbed (an hour)
	$(PY) scripts/house_prove_interruptions.py --report reports/tiny/interruptions.json

clean:  ## remove runs/RUN but its results and what it remembers; the caches stay
	[ ! -d $(HEAVY) ] || find $(HEAVY) -mindepth 1 -maxdepth 1 ! -name results ! -name run.json -exec rm -rf {} +
distclean:  ## remove .venv and all of runs/, results too; the cache outside the checkout stays
	rm -rf .venv .venv.lock runs third_party/llama.cpp
