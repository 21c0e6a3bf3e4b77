## House
.PHONY: status switch test test-fast test-slow lint-code modules clean distclean
# What not every run has is listed where something of it is there.
begun = $(if $(wildcard $(2) $(2:.json=.failed.json)),$(1)=$(2))
STAGES := $(call begun,data,$(REPORTS)/dataset.json) $(call begun,core,$(REPORTS)/core.json) \
  $(call begun,train,$(REPORTS)/moe.$(MODE).json) $(call begun,repair-loop,$(REPORTS)/repair.json) \
  gguf=$(BF16) imatrix=$(REPORTS)/imatrix.json parity=$(REPORTS)/parity.json \
  $(foreach name,$(KXL),$(name)=$(patsubst %,$(FIXED),$(name))) \
  $(addprefix eval=,$(filter-out $(patsubst %,$(FIXED),$(KXL)),$(QUANT_EVALS))) \
  $(addprefix mlx-evals=,$(call MLX_EVAL,bf16)) $(call begun,hermes-live,$(patsubst %,$(LIVE),$(QUANT))) \
  $(foreach report,$(HARD_EVALS),$(call begun,hard,$(report))) \
  quants=$(REPORTS)/quants.json sizes=$(SIZES) release-summary=$(SUMMARY) card=$(CARD) release=$(HEAVY)/release
status: $(VENV)  ## where this run stands: what is done, stale or failed, how long it took, what to run next
	@$(PY) scripts/status.py $(addprefix --stage ,$(STAGES)) --history $(HERMES_KXL_HISTORY) \
	  $(if $(OURS),--claims) --again "$(if $(OURS),,RUN=$(RUN))"
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

clean:  ## remove runs/RUN; results and the caches stay
	rm -rf $(HEAVY)
distclean:  ## remove .venv and all of runs/; the cache outside the checkout stays
	rm -rf .venv .venv.lock runs third_party/llama.cpp
