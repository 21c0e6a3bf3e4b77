## Training all experts
.PHONY: base core train step gradients train-proof rounding-noise transfer-proof profile sweep prove-8b prove-8b-long \
  prove-8b-mapped prove-24b measure-step compare-mlx-lm
#: MODE            streamed or grouped (streamed)
#: STEP            the checkpoint that `make step` takes, as runs/RUN/moe/MODE/step_00100 (the last one)
#: HARDWARE        names a profile in configs/hardware, whose memory stop a run keeps (this-machine)
#: LEAVE_GIB       runs prove-8b-mapped a second time with all memory but so many GiB held by another process (not set)
#: SEEDS           runs of each method and learning rate of transfer-proof (5)
#: MINUTES         stops transfer-proof after the run that ends later; the next call goes on (not set)
#: TOKENS          tokens of the example of measure-step (1024)
#: GROUPED_PASSES  lets prove-8b run that many of the seven passes of a grouped example and say so (all)
MODE     ?= streamed
HARDWARE ?= this-machine
SEEDS    ?= 5
TOKENS   ?= 1024
PROFILE  := configs/hardware/$(HARDWARE).json
BASE     := $(if $(wildcard $(MODEL)/config.json),$(MODEL),$(HEAVY)/base)
CORE     := $(HEAVY)/core
MOE_RUN  := $(HEAVY)/moe
EIGHT    := reports/lfm2.5-8b-a1b
EIGHT_SHAPES := configs/lfm2.5-8b-a1b-moe.json gguf/lfm2-8b-a1b.shapes.json

base: $(REPORTS)/base.json  ## the checkpoint to train: MODEL=folder is checked, MODEL=owner/name downloaded
$(REPORTS)/base.json: $(call part,model) $(call code,moe_fetch_base) | $(VENV)
	$(need_model)$(PY) scripts/moe_fetch_base.py --model $(MODEL) $(addprefix --revision ,$(REVISION)) \
	  --out $(HEAVY)/base --report $@
core: $(CORE)/config.json  ## its mixed core: experts int8, routers and all else BF16; error of every matrix
$(CORE)/config.json: $(REPORTS)/base.json $(call part,train) $(call code,moe_build_core) | $(VENV)
	$(call planned,core) scripts/moe_build_core.py --model $(BASE) --config $(TRAINING) --out $(CORE) \
	  --report $(REPORTS)/core.json

# $(call encoded,FOLDER,DATA): rows as tokens and masks.
define encoded
$(1)/train.jsonl $(1)/valid.jsonl: $(1)/%.jsonl: $(2)/train.jsonl $$(CORE)/config.json $$(call code,moe_encode_rows) \
  | $$(VENV)
	$$(PY) scripts/moe_encode_rows.py --rows $(2)/$$*.jsonl --model $$(CORE) --config $$(TRAINING) --out $$@
endef
$(eval $(call encoded,$(MOE_RUN),$(DATA)))
ROW_FLAGS = --core $(CORE) --train $(1)/train.jsonl --valid $(1)/valid.jsonl --config $(TRAINING)
train: $(REPORTS)/moe.$(MODE).json  ## train all experts and routers on the core; resumes to the same bits
$(REPORTS)/moe.$(MODE).json: $(MOE_RUN)/train.jsonl $(MOE_RUN)/valid.jsonl $(call part,train) \
  $(call code,moe_train) | $(VENV)
	$(call planned,train) scripts/moe_train.py $(call ROW_FLAGS,$(MOE_RUN)) --mode $(MODE) --work $(MOE_RUN)/$(MODE) \
	  $(addprefix --hardware ,$(wildcard $(PROFILE))) --report $@
LAST_STEP = $(lastword $(sort $(wildcard $(MOE_RUN)/$(MODE)/step_*)))
step: $(VENV)  ## a BF16 checkpoint of the last step, or of STEP, in runs/RUN/moe/bf16
	$(call planned,step) scripts/moe_materialize.py --step \
	  $(or $(STEP),$(LAST_STEP),$(error $(MOE_RUN)/$(MODE) has no checkpoint: run make train)) --out $(MOE_RUN)/bf16

gradients: $(REPORTS)/gradients.json  ## the streamed step's gradients beside autograd's, in float32 and as shipped
$(REPORTS)/gradients.json: $(MOE_RUN)/valid.jsonl $(call part,train) $(call code,moe_check_gradients) | $(VENV)
	$(PY) scripts/moe_check_gradients.py --core $(CORE) --rows $< --config $(TRAINING) --report $@

train-proof: $(REPORTS)/moe_proof.json  ## proof that it learns: both modes, and rounding to nearest, which does not
# Its rows have the shortest prompts: most of the run's own are longer than the cap of a step that takes seconds.
PROOF := $(MOE_RUN)/proof
$(PROOF)/rows.jsonl: $(TINY_DATA) $(call code,traces_build_router_rows) | $(VENV)
	$(PY) scripts/traces_build_router_rows.py --context compact --rows 1200 --seed 12 --out $@
$(PROOF)/data/train.jsonl: $(PROOF)/rows.jsonl $(call part,traces) $(SUITES_SAY) \
  $(call code,traces_prepare) | $(VENV)
	$(PY) scripts/traces_prepare.py $< --config $(CONFIG) --model $(MODEL) --out $(@D) --manifest $(@D)/manifest.json \
	  --report $(PROOF)/dataset.json $(SUITE_FLAGS)
$(eval $(call encoded,$(PROOF),$(PROOF)/data))
$(REPORTS)/moe_proof.json: $(PROOF)/train.jsonl $(PROOF)/valid.jsonl $(call part,train) \
  $(call code,moe_prove_training) | $(VENV)
	$(PY) scripts/moe_prove_training.py $(call ROW_FLAGS,$(PROOF)) --work $(PROOF) --report $@


rounding-noise: $(REPORTS)/rounding_noise.json  ## what rounding does to weights without a signal (10 minutes)
$(REPORTS)/rounding_noise.json: $(PROOF)/valid.jsonl $(wildcard configs/*-moe.json) $(call code,moe_measure_noise) \
  | $(VENV)
	$(PY) scripts/moe_measure_noise.py $(wildcard configs/*-moe.json) --core $(CORE) --model $(MODEL) --rows $< \
	  --work $(MOE_RUN)/noise --report $@
# Tools that the tiny model does not know.
NEW := $(MOE_RUN)/new
$(NEW)/rows/%.jsonl: datasets/tiny/new_tools.json $(call code,moe_build_new_rows) | $(VENV)
	$(PY) scripts/moe_build_new_rows.py --part $* --out $@
$(NEW)/%.jsonl: $(NEW)/rows/%.jsonl $(CORE)/config.json $(call code,moe_encode_rows) | $(VENV)
	$(PY) scripts/moe_encode_rows.py --rows $< --model $(CORE) --config $(TRAINING) --out $@
NEW_ROWS := $(foreach part,train tune test,$(NEW)/$(part).jsonl)
transfer-proof: $(NEW_ROWS) $(PROOF)/valid.jsonl  ## new tools for the undamaged model, five ways (hours; goes on)
	$(PY) scripts/moe_prove_transfer.py --core $(CORE) --model $(MODEL) --new $(NEW) --old $(PROOF)/valid.jsonl \
	  --config $(TRAINING) --seeds $(SEEDS) $(addprefix --minutes ,$(MINUTES)) --work $(NEW)/runs \
	  --report $(REPORTS)/moe_proof.json

profile: $(VENV) | llama-ready  ## measure this machine: memory, matmul, disk, the line with three small models (30 min)
	$(PY) scripts/moe_profile_hardware.py --walks --out $(PROFILE)
sweep: $(EIGHT)/group_sweep.json  ## time and memory of a step by group size, beside the streamed step
$(EIGHT)/group_sweep.json: $(call content,$(EIGHT_SHAPES)) $(call code,moe_sweep_groups moe_measure_step) | $(VENV)
	$(PY) scripts/moe_sweep_groups.py --sweep $@ --model $(EIGHT)/memory_model.json
prove-8b: reports/prove-8b/memory.json  ## a real step at LFM2-8B-A1B's shapes, streamed and grouped (19 minutes)
reports/prove-8b/memory.json: $(call content,$(EIGHT_SHAPES)) $(call code,moe_prove_8b moe_measure_step) | $(VENV)
	$(PY) scripts/moe_prove_8b.py $(addprefix --grouped-passes ,$(GROUPED_PASSES)) --report $@
prove-8b-long: reports/prove-8b/memory.json  ## the streamed step at 10,240 tokens, added to that report (an hour)
	$(PY) scripts/moe_prove_8b.py --long --report $<
PROVE_MAPPED := $(call code,moe_prove_mapped moe_measure_step)
prove-8b-mapped: $(EIGHT_SHAPES) $(PROVE_MAPPED) | $(VENV)  ## the step from mapped files, added to it (15 minutes)
	$(PY) scripts/moe_prove_mapped.py --beside $(addprefix --leave-gib ,$(LEAVE_GIB)) --report reports/prove-8b/memory.json
prove-24b: reports/prove-24b/memory.json  ## a step at LFM2-24B-A2B's shapes from mapped files: 46 GiB of disk
reports/prove-24b/memory.json: configs/lfm2.5-8b-a1b-moe.json gguf/lfm2-24b-a2b.shapes.json $(PROVE_MAPPED) | $(VENV)
	$(PY) scripts/moe_prove_mapped.py --shapes gguf/lfm2-24b-a2b.shapes.json --tokens 256 --limit-gib 12 --report $@
measure-step: $(VENV)  ## one step at LFM2-8B-A1B's shapes, in memory, on MLX's default device; a report
	$(PY) scripts/moe_measure_step.py --shapes gguf/lfm2-8b-a1b.shapes.json --tokens $(TOKENS) \
	  --config configs/lfm2.5-8b-a1b-moe.json --storage resident --report $(REPORTS)/step.json
compare-mlx-lm: $(VENV)  ## a streamed step against mlx_lm's own full fine-tuning step on one small model
	$(PY) scripts/moe_compare_mlx_lm.py --report reports/prove-8b/mlx_lm.json
