## Repair, on MLX
.PHONY: repair repair-loop check-parser repair-speed prove-lora-8b
#: ITER         the repair iteration to stop after, as 03
#: START        the checkpoint that the loop starts from (MODEL, or the weak one that shows the loop)
#: REPAIR_DATA  folder of the repair rows (runs/RUN/repair/rows; those of tiny-repair are in repair_datasets)
REPAIR      := $(HEAVY)/repair
REPAIR_DATA ?= $(if $(filter tiny-repair,$(RUN)),repair_datasets,$(REPAIR)/rows)
START       ?= $(if $(filter $(REPAIR)/best,$(MODEL)),$(HEAVY)/weak,$(MODEL))
LOOP = $(call planned,repair-loop) scripts/repair_loop.py --model $(START) --config $(CONFIG) --work $(REPAIR) \
  --data $(REPAIR_DATA) --report $(REPORTS)/repair.json

repair: $(START)/config.json $(VENV)  ## one repair iteration: rows for what failed, adapter, fuse, evaluation
	$(if $(ITER),,$(error repair needs the iteration to stop after: make repair ITER=03))
	$(call logged,repair,$(LOOP) --iterations $(shell expr $(call quoted,$(ITER)) + 0))
repair-loop: $(START)/config.json $(VENV)  ## evaluate, diagnose, train and fuse until every suite passes; resumes
	$(call logged,repair,$(LOOP))
# A checkpoint that is weak on purpose, to show the loop on.
WEAK := $(HEAVY)/weak
$(WEAK)/config.json: $(call content,$(wildcard models/tiny/*)) $(TINY_DATA) \
  $(call code,repair_build_weak_set repair_train repair_fuse) | $(VENV)
	$(PY) scripts/repair_build_weak_set.py --out $(WEAK)-set
	$(PY) scripts/repair_train.py --model models/tiny --data $(WEAK)-set --adapter $(WEAK)-adapter \
	  --report $(REPORTS)/weak.json \
	  --steps 60 --learning-rate 0.0005 --batch-size 16 --max-tokens 8192 --prefix-gradient 0.25
	$(PY) scripts/repair_fuse.py --model models/tiny --adapter $(WEAK)-adapter --out $(WEAK)

# MLX's variants of MODEL; `make mlx-variants` judges them.
VARIANT_FILES := $(patsubst %,$(HEAVY)/mlx/%/config.json,$(VARIANTS))
$(VARIANT_FILES): $(HEAVY)/mlx/%/config.json: $(call part,model) $(call code,repair_build_variant) \
  | $(VENV)
	$(PY) scripts/repair_build_variant.py --model $(MODEL) --variant $* --out $(@D) --report $(REPORTS)/variant.$*.json

check-parser: $(VENV)  ## proof that MODEL, served by mlx_lm.server, answers with structured tool calls
	$(PY) scripts/repair_check_parser.py --model $(MODEL)
repair-speed: $(VENV)  ## one LoRA step of ours against stock mlx_lm.lora on the same rows (20 minutes, idle cores)
	$(PY) scripts/repair_bench_lora.py --model models/tiny --data repair_datasets/iter01 \
	  --report reports/tiny/lora_speed.json --steps 5
prove-lora-8b: reports/prove-8b/lora.json  ## an adapter's step of 4,096 tokens at 8B shapes (10 minutes, 9 GiB)
reports/prove-8b/lora.json: $(call content,gguf/lfm2-8b-a1b.shapes.json) $(call code,repair_prove_8b) | $(VENV)
	$(PY) scripts/repair_prove_8b.py --report $@
