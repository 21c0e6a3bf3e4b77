## Policies found by search
.PHONY: sensitivity estimate priors policy propose ladder search search-cases best smol-search
#: BUDGET   what `make policy` and `make propose` may spend: 5.7 (GiB), 8.3MiB, 5.5bpw
#: NAME     the policy's name, such as q4search
#: TABLE    what it is searched in: sensitivity (measured) or estimate (from weights and imatrix)
#: WITHOUT  types to leave out, as "Q5_1 IQ3_S"
#: SHAPES   a config.json, for `make propose`: a policy without weights
#: FIT      memory for `make best`, as 8GiB
#: CONTEXT  tokens of context for `make best` (65536)
TABLE    ?= sensitivity
CONTEXT  ?= 65536
POLICIES := gguf/$(RUN)
SEARCHED := $(POLICIES)/plan.json
SEARCH_TABLE = $(REPORTS)/$(TABLE).json
LEAVE_OUT = $(addprefix --without ,$(WITHOUT))
need = $(or $($(1)),$(error add $(1)=$(2)))

sensitivity: $(REPORTS)/sensitivity.json  ## what each type does to each tensor, measured (minutes; resumes)
$(REPORTS)/sensitivity.json: $(BF16) $(IMATRIX) $(HEAVY)/calibration.txt $(call part,measure) \
  $(call code,search_measure_sensitivity) | $(VENV) llama-ready
	$(need_model)$(PY) scripts/search_measure_sensitivity.py --model $(MODEL) --gguf $(BF16) --imatrix $(IMATRIX) \
	  --text $(HEAVY)/calibration.txt --config $(CONFIG) --work $(HEAVY)/sensitivity --logs $(HEAVY)/logs --out $@
estimate: $(REPORTS)/estimate.json  ## the same from weights and imatrix, without running the model
$(REPORTS)/estimate.json: $(BF16) $(IMATRIX) configs/quant_priors.json $(call code,search_estimate) \
  | $(VENV) llama-ready
	$(PY) scripts/search_estimate.py --gguf $(BF16) --imatrix $(IMATRIX) --work $(HEAVY)/estimate --out $@
# Of this model alone: `make smol-search` shows what they are worth for a model that they were not fitted on.
priors: $(REPORTS)/sensitivity.json $(REPORTS)/estimate.json  ## configs/quant_priors.json again, from this run's model
	$(PY) scripts/search_fit_priors.py --out configs/quant_priors.json \
	  --measured $(RUN)=$(REPORTS)/sensitivity.json:$(HEAVY)/estimate

policy: $(BF16) $(SEARCH_TABLE)  ## the policy of least damage for BUDGET, as NAME, and its GGUF
	$(PY) scripts/search_policy.py --table $(SEARCH_TABLE) --gguf $(BF16) --budget $(call need,BUDGET,5.7) \
	  --name $(call need,NAME,q4search) --model-name $(RUN) --plan $(SEARCHED) $(LEAVE_OUT)
	$(PY) scripts/quant_quantize.py --gguf $(BF16) --imatrix $(IMATRIX) --policy $(NAME) --plan $(SEARCHED) \
	  --out $(patsubst %,$(GGUF),$(NAME)) --log $(LOGS)/quantize.$(NAME).log
# The policies of a run whose config says that they are estimated.
$(HEAVY)/estimated/plan.json: $(BF16) $(REPORTS)/estimate.json $(call content,gguf/export_plan.json \
  $(patsubst %,gguf/%.tensor-types,$(KXL))) $(call code,search_policy) | $(VENV)
	$(making)$(PY) scripts/search_policy.py --table $(REPORTS)/estimate.json --gguf $(BF16) \
	  --like gguf/export_plan.json --model-name $(RUN) --plan $@
propose: $(VENV) llama-ready  ## a policy for the shape in SHAPES=config.json under BUDGET, from nothing else
	$(PY) scripts/search_estimate.py --shapes $(call need,SHAPES,path/config.json) --out $(HEAVY)/proposed.json
	$(PY) scripts/search_policy.py --table $(HEAVY)/proposed.json --shapes $(SHAPES) \
	  --budget $(call need,BUDGET,5.7) --name $(call need,NAME,proposed) --plan $(HEAVY)/policies/plan.json $(LEAVE_OUT)
# Files of LFM2-8B-A1B from the reference's budgets down to a phone's, from its shapes alone; sizes by llama-quantize.
LADDER     := 8.6 7.1 6.5 5.7 5.0 4.3 3.6
LADDER_DIR := gguf/lfm2-8b-a1b
LADDER_OF   = runs/lfm2-8b-a1b/proposed.json
ladder: $(EIGHT)/ladder.json  ## a ladder of searched policies at LFM2-8B-A1B's shapes, 8.6 to 3.6 GiB; sizes checked
$(LADDER_OF): gguf/lfm2-8b-a1b.shapes.json configs/quant_priors.json $(call code,search_estimate) | $(VENV)
	$(PY) scripts/search_estimate.py --shapes $< --out $@
$(EIGHT)/ladder.json: $(LADDER_OF) $(call code,search_policy) $(call code,quant_predict_sizes) | $(VENV) llama-ready
	for budget in $(LADDER); do $(PY) scripts/search_policy.py --table $(LADDER_OF) --fast \
	  --shapes gguf/lfm2-8b-a1b.shapes.json --budget $$budget --name s$$(echo $$budget | tr -d .) \
	  --plan $(LADDER_DIR)/plan.json || exit 1; done
	$(PY) scripts/quant_predict_sizes.py --plan $(LADDER_DIR)/plan.json --report $@
search: $(REPORTS)/policy_search.json  ## policies chosen at the bytes of each KXL, beside rivals of equal bytes
SMALLER := 45=4.5bpw 40=4.0bpw
# Chosen on the text of the search, judged on the one that no search has seen.
$(REPORTS)/policy_choice.json: $(REPORTS)/sensitivity.json $(HEAVY)/calibration.txt \
  $(call content,gguf/export_plan.json $(patsubst %,gguf/%.tensor-types,$(KXL))) $(call code,search_choose) \
  | $(VENV) llama-ready
	$(PY) scripts/search_choose.py --gguf $(BF16) --imatrix $(IMATRIX) --table $(REPORTS)/sensitivity.json \
	  --text $(HEAVY)/calibration.txt --config $(CONFIG) $(addprefix --budget ,$(SMALLER)) --write $(SEARCHED) \
	  --model-name $(RUN) --work $(HEAVY)/choice --logs $(HEAVY)/logs --out $@
$(REPORTS)/policy_search.json: $(REPORTS)/policy_choice.json $(REPORTS)/estimate.json $(HEAVY)/heldout.txt \
  $(call code,search_judge) | $(VENV) llama-ready
	$(PY) scripts/search_judge.py --gguf $(BF16) --imatrix $(IMATRIX) --chosen $(REPORTS)/policy_choice.json \
	  --table $(REPORTS)/sensitivity.json --estimate $(REPORTS)/estimate.json --text $(HEAVY)/heldout.txt \
	  --config $(CONFIG) --work $(HEAVY)/search --logs $(HEAVY)/logs --out $@
# What was chosen, by tool calls: every suite of the config, and the development half of wordings that no training saw.
FOUND := $(patsubst %kxl,%search,$(filter %kxl,$(KXL)))
search-cases: $(REPORTS)/search_cases.json  ## the chosen policies beside BF16, case by case: which calls flipped
$(patsubst %,$(GGUF),$(FOUND)): $(GGUF): $(QUANTIZED_FROM) $(call content,$(SEARCHED) $(POLICIES)/%.tensor-types) \
  | $(VENV) llama-ready
	$(call QUANTIZE,$(PY)) --policy $* --plan $(SEARCHED)
SEARCH_ASKS = $(PY) scripts/eval_run.py --config $(CONFIG) --gguf $(patsubst %,$(GGUF),$(2)) --artifact $(2) \
  --suite evals/suites/$(1).json --out $(HEAVY)/search-cases/$(1).$(2).json $(3)
$(REPORTS)/search_cases.json: $(patsubst %,$(GGUF),bf16 $(FOUND)) $(EVALUATED) \
  $(call content,evals/halves/unseen_400.json $(patsubst %,evals/suites/%.json,$(SUITES) unseen_400)) \
  $(call code,eval_prove_equivalence)
	$(foreach name,bf16 $(FOUND),$(foreach suite,$(SUITES),$(call SEARCH_ASKS,$(suite),$(name)) &&) \
	  $(call SEARCH_ASKS,unseen_400,$(name),--half development) &&) \
	$(PY) scripts/eval_prove_equivalence.py $(foreach name,bf16 $(FOUND),$(patsubst %,\
	  $(HEAVY)/search-cases/%.$(name).json,$(SUITES) unseen_400)) --margin $(MARGIN) --out $@
best: $(BF16) $(IMATRIX)  ## the largest policy with which the model, CONTEXT tokens and all buffers fit into FIT; made
	chosen=$$($(PY) scripts/search_best.py --gguf $(BF16) --fit $(call need,FIT,8GiB) --context $(CONTEXT) \
	  --plan gguf/export_plan.json $(addprefix --plan ,$(wildcard $(SEARCHED))) --print) && set -- $$chosen && \
	$(PY) scripts/quant_quantize.py --gguf $(BF16) --imatrix $(IMATRIX) --policy $$1 --plan $$2 \
	  --out $(HEAVY)/best.gguf --log $(LOGS)/quantize.best.log

# SmolLM2-135M as its wheel has it: a dense model whose rows are no multiples of 256.
SMOL_TEXTS := $(SMOL)/calibration.txt $(SMOL)/heldout.txt
SMOL_GGUF  := $(SMOL)/base.gguf
SMOL_CHUNK := --context 1024
SMOL_FILES  = --gguf $(SMOL_GGUF) --imatrix $(SMOL)/imatrix.gguf
smol-search: $(SMOL_OUT)/policy_search.json  ## sensitivity, estimate and rivals of SmolLM2-135M (resumes)
$(SMOL)/heldout.txt: $(SMOL)/calibration.txt
$(SMOL)/calibration.txt: $(SMOL)/data/manifest.json $(call code,quant_build_calibration) | $(VENV)
	$(PY) scripts/quant_build_calibration.py --rows $(SMOL)/data/train.jsonl --model $(SMOL)/base \
	  --session-tokens 1024 --calibration-tokens 32768 --heldout-tokens 16384 --calibration $(SMOL)/calibration.txt \
	  --heldout $(SMOL)/heldout.txt --report $(SMOL_OUT)/calibration.json
$(SMOL)/imatrix.gguf: $(SMOL_GGUF) $(SMOL)/calibration.txt $(call code,quant_compute_imatrix) | $(VENV) llama-ready
	$(PY) scripts/quant_compute_imatrix.py --gguf $(SMOL_GGUF) --text $(SMOL)/calibration.txt $(SMOL_CHUNK) \
	  --out $@ --report $(SMOL_OUT)/imatrix.json --log logs/$(SMOL_NAME)/imatrix.log
$(SMOL_OUT)/sensitivity.json: $(SMOL)/imatrix.gguf $(call code,search_measure_sensitivity) | $(VENV) llama-ready
	$(PY) scripts/search_measure_sensitivity.py --model $(SMOL)/base $(SMOL_FILES) --text $(SMOL)/calibration.txt \
	  --context 1024 --whole-context 1024 --tokens 4096 --whole-tokens 4096 \
	  --work $(SMOL)/sensitivity --logs $(SMOL)/logs --out $@
$(SMOL_OUT)/estimate.json: $(SMOL)/imatrix.gguf configs/quant_priors.json $(call code,search_estimate) \
  | $(VENV) llama-ready
	$(PY) scripts/search_estimate.py $(SMOL_FILES) --work $(SMOL)/estimate --out $@
# Another program's file, of its own bytes: ours is chosen for the same.
AUTOROUND := $(SMOL)/autoround.gguf
$(AUTOROUND): $(SMOL)/calibration.txt third_party/auto-round.requirements.txt $(call code,search_autoround) | $(VENV)
	$(PY) scripts/search_autoround.py --model $(SMOL)/base --text $(SMOL)/calibration.txt --scheme q4_k_m --out $@
SMOL_PLAN := --plan gguf/dense/$(SMOL_NAME).json
$(SMOL_OUT)/policy_choice.json: $(SMOL_OUT)/sensitivity.json $(AUTOROUND) $(wildcard gguf/dense/*) \
  $(call code,search_choose) | $(VENV) llama-ready
	$(PY) scripts/search_choose.py $(SMOL_FILES) --table $(SMOL_OUT)/sensitivity.json --text $(SMOL)/calibration.txt \
	  $(SMOL_CHUNK) --tokens 16384 $(SMOL_PLAN) --budget 65=6.5bpw --budget 55=5.5bpw --budget 48=4.8bpw \
	  --budget autoround=$$(wc -c < $(AUTOROUND))bytes \
	  --work $(SMOL)/choice --logs $(SMOL)/logs --out $@
$(SMOL_OUT)/policy_search.json: $(SMOL_OUT)/policy_choice.json $(SMOL_OUT)/estimate.json $(SMOL)/heldout.txt \
  $(call code,search_judge) | $(VENV) llama-ready
	$(PY) scripts/search_judge.py $(SMOL_FILES) --chosen $(SMOL_OUT)/policy_choice.json \
	  --table $(SMOL_OUT)/sensitivity.json --estimate $(SMOL_OUT)/estimate.json --text $(SMOL)/heldout.txt \
	  $(SMOL_CHUNK) --tokens 8192 $(SMOL_PLAN) --rival autoround=$(AUTOROUND) \
	  --work $(SMOL)/search --logs $(SMOL)/logs --out $@
