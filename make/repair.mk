## Repair, on MLX
.PHONY: repair repair-loop mlx-evals mlx-variants check-parser repair-speed
#: ITER         the repair iteration to stop after, as 03
#: START        the checkpoint that the loop starts from (MODEL, or the weak one that shows the loop)
#: REPAIR_DATA  folder of the repair rows (repair_datasets)
REPAIR      := $(HEAVY)/repair
REPAIR_DATA ?= repair_datasets
START       ?= $(if $(filter $(REPAIR)/best,$(MODEL)),$(HEAVY)/weak,$(MODEL))
LOOP := $(PY) scripts/repair_loop.py --model $(START) --config $(CONFIG) --work $(REPAIR) --data $(REPAIR_DATA) \
  --report $(REPORTS)/repair.json

repair: $(START)/config.json $(VENV)  ## one repair iteration: rows for what failed, adapter, fuse, evaluation
	$(if $(ITER),,$(error repair needs the iteration to stop after: make repair ITER=03))
	$(call logged,repair,$(LOOP) --iterations $(shell expr $(call quoted,$(ITER)) + 0))
repair-loop: $(START)/config.json $(VENV)  ## evaluate, diagnose, train and fuse until every suite passes; resumes
	$(call logged,repair,$(LOOP))
# A checkpoint that is weak on purpose, to show the loop on.
WEAK := $(HEAVY)/weak
$(WEAK)/config.json: $(wildcard models/tiny/*) $(TINY_DATA) \
  $(call code,repair_build_weak_set repair_train repair_fuse) | $(VENV)
	$(PY) scripts/repair_build_weak_set.py --out $(WEAK)-set
	$(PY) scripts/repair_train.py --model models/tiny --data $(WEAK)-set --adapter $(WEAK)-adapter --report $(WEAK).json \
	  --steps 60 --learning-rate 0.0005 --batch-size 16 --max-tokens 8192 --prefix-gradient 0.25
	$(PY) scripts/repair_fuse.py --model models/tiny --adapter $(WEAK)-adapter --out $(WEAK)

# MLX's variants of MODEL, each judged on every suite of the config by mlx_lm.server as it is installed.
VARIANTS := 8bit 6bit mixed
MLX_EVAL  = $(foreach suite,$(SUITES),$(EVALS)/$(suite).mlx.$(1).json)
mlx-evals: $(call MLX_EVAL,bf16)  ## every suite of the config on MODEL, served by mlx_lm.server
mlx-variants: $(foreach variant,bf16 $(VARIANTS),$(call MLX_EVAL,$(variant)))  ## 8-bit, 6-bit, mixed; judged
VARIANT_FILES := $(patsubst %,$(HEAVY)/mlx/%/config.json,$(VARIANTS))
$(VARIANT_FILES): $(HEAVY)/mlx/%/config.json: $(MODEL_FILES) $(call part,model) $(call code,repair_build_variant) \
  | $(VENV)
	$(PY) scripts/repair_build_variant.py --model $(MODEL) --variant $* --out $(@D) --report $(REPORTS)/variant.$*.json
# $(1) suite, $(2) variant, $(3) its folder, $(4) the files to wait for.
define mlx_evaluation
$$(EVALS)/$(1).mlx.$(2).json: $(4) evals/suites/$(1).json $$(EVALUATED) | $$(VENV)
	$$(call logged,eval.$(1).mlx.$(2),$$(PY) scripts/eval_run.py --suite evals/suites/$(1).json --config $$(CONFIG) \
	  --backend mlx --model $(3) --artifact $(2) --out $$@ --server-log $$(HEAVY)/server.$(1).mlx.$(2).log)
endef
$(foreach suite,$(SUITES),$(eval $(call mlx_evaluation,$(suite),bf16,$(MODEL),$(MODEL_FILES) $(call part,model))) \
  $(foreach variant,$(VARIANTS),$(eval \
  $(call mlx_evaluation,$(suite),$(variant),$(HEAVY)/mlx/$(variant),$(HEAVY)/mlx/$(variant)/config.json))))

check-parser: $(VENV)  ## proof that MODEL, served by mlx_lm.server, answers with structured tool calls
	$(PY) scripts/repair_check_parser.py --model $(MODEL)
repair-speed: $(VENV)  ## one LoRA step of ours against stock mlx_lm.lora on the same committed rows (nine minutes)
	$(PY) scripts/repair_bench_lora.py --model models/tiny --data $(REPAIR_DATA)/iter01 \
	  --report reports/tiny/lora_speed.json --steps 2 --stock-first
