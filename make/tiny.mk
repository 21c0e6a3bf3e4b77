## The model of our own
.PHONY: tool-results generated-suite tiny-model tiny-next
tool-results: $(VENV)  ## datasets/tiny/*.jsonl again: generated calls, really run by Hermes's own tools (minutes)
	$(PY) scripts/tiny_record_results.py --out datasets/tiny/tool_results.jsonl
	$(PY) scripts/tiny_record_results.py --sequences --episodes 2400 --out datasets/tiny/sequences.jsonl
generated-suite: $(VENV)  ## evals/suites/generated_200.json again: requests with arguments that training never uses
	$(PY) scripts/tiny_generate_suite.py --out evals/suites/generated_200.json

# What the generated rows are drawn from; the code behind them is in each script's stamp.
TINY_DATA := $(call content,configs/hermes_tools.json configs/hermes_system_prompt.txt \
  $(wildcard datasets/tiny/*.* datasets/tiny/forms/*))
# Conversations for the imatrix and the KL divergence, where ROWS names none.
$(HEAVY)/rows.jsonl: $(TINY_DATA) $(call code,tiny_build_rows) | $(VENV)
	$(PY) scripts/tiny_build_rows.py --out $@

# Calls and copying, mostly without schemas; Hermes's own prompts; wider copying at a low rate; each token of the
# vocabulary as an argument, twice; two and three calls in a row, twice. A late stage forgets a little of what was
# there before: a mean of before and after is kept. Most of it is the embedding, whose rows for rare words drift, so
# the last stage leaves it alone.
TRAIN := runs/tiny-train
stage = $(PY) scripts/tiny_train.py --config configs/tiny-train$(addprefix -,$(if $(2),$(1))).json \
  --model $(TRAIN)/$(1) $(addprefix --start-from $(TRAIN)/,$(2)) --work $(TRAIN)/work-$(1) \
  --report reports/tiny/training-$(1).json --log logs/tiny/training-$(1).log
mean  = $(PY) scripts/tiny_average.py $(TRAIN)/$(1) $(TRAIN)/$(2) --share $(3) $(addprefix --but ,$(5)) \
  --out $(4) --report reports/tiny/average-$(2).json
tiny-model: $(VENV)  ## models/tiny again from nothing (hours on 2 cores; resumes in runs/tiny-train)
	for number in 1 2 3 4 5 6 7; do $(PY) scripts/tiny_train_tokenizer.py --out $(TRAIN)/$$number || exit 1; done
	$(call stage,1)
	$(call stage,2,1)
	$(call stage,3,2)
	$(call mean,2,3,0.35,$(TRAIN)/mean-3)
	$(call stage,4,mean-3)
	$(call stage,5,4)
	$(call mean,4,5,0.6,$(TRAIN)/mean-5)
	$(call stage,6,mean-5)
	$(call mean,mean-5,6,0.8,$(TRAIN)/mean-6,embed_tokens=0.5)
	$(call stage,7,mean-6)
	cp $(TRAIN)/7/* models/tiny

NEXT := runs/tiny-next
NEXT_SCORE := $(NEXT)/score.json
PLAN := configs/tiny.plan.json
NEXT_FROM := $(TINY_DATA) $(call content,$(PLAN) $(wildcard datasets/tiny/wordings/*))
$(NEXT)/model/tokenizer.json: $(NEXT_FROM) $(call code,tiny_train_tokenizer) | $(VENV)
	$(PY) scripts/tiny_train_tokenizer.py --plan $(PLAN) --out $(@D)
$(NEXT)/model/model.safetensors: $(NEXT)/model/tokenizer.json $(NEXT_FROM) $(call code,tiny_train_plan) | $(VENV)
	$(PY) scripts/tiny_train_plan.py --plan $(PLAN) --model $(@D) --work $(NEXT)/work --report $(NEXT)/training.json \
	  --log $(NEXT)/training.log
$(NEXT_SCORE): $(NEXT)/model/model.safetensors $(call code,tiny_score) | $(VENV)
	$(PY) scripts/tiny_score.py $(<D) --out $@
tiny-next: $(NEXT_SCORE)  ## the next tiny model, which thinks, by one plan (hours on 2 cores; resumes); not shipped yet
