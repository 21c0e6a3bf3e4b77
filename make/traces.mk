## Traces to rows
.PHONY: data check-template hermes-traces bench-data
DATA          := $(HEAVY)/data
SUITE_FILES   := $(wildcard evals/suites/*.json evals/live/*.json)
SUITE_FLAGS   := $(addprefix --suite ,$(SUITE_FILES))
SUITES_SAY    := $(call content,$(SUITE_FILES))
ROUTER        := $(HEAVY)/router_rows.jsonl
TRACE_FILES   := $(or $(TRACES),datasets/hermes/traces.jsonl $(ROUTER))

data: $(DATA)/train.jsonl  ## train, valid and test rows, from the shipped traces and generated ones or from TRACES
$(ROUTER): $(TINY_DATA) $(call code,traces_build_router_rows) | $(VENV)
	$(PY) scripts/traces_build_router_rows.py --out $@
# What TRACES names is in its part: files and folders by what they hold, a hub id by nothing that make could see. Rows
# keep their time where they are the same again, so that another suite starts no other training.
$(DATA)/train.jsonl $(DATA)/valid.jsonl $(DATA)/test.jsonl: $(DATA).made ; +@:
$(DATA).made: $(filter $(ROUTER),$(TRACE_FILES)) $(call part,traces) $(call part,tokenizer) $(SUITES_SAY) \
  $(call code,traces_prepare) | $(VENV)
	$(need_model)$(call planned,data) scripts/traces_prepare.py $(TRACE_FILES) --config $(CONFIG) --model $(MODEL) \
	  --out $(DATA) --manifest $(RESULTS)/datasets/manifest.json --report $(REPORTS)/dataset.json $(SUITE_FLAGS)
	@touch $@
check-template: $(DATA)/train.jsonl | llama-ready  ## which calls MODEL's chat template would break, by row and parser
	$(PY) scripts/traces_check_template.py --model $(MODEL) \
	  $(addprefix --rows $(DATA)/,train.jsonl valid.jsonl test.jsonl) --report $(REPORTS)/template.json
hermes-traces: $(VENV)  ## datasets/hermes/traces.jsonl again: the pinned Hermes Agent, a scripted server (4 minutes)
	$(PY) scripts/traces_record.py --out datasets/hermes/traces.jsonl
bench-data: $(VENV)  ## speed and memory of `make data` on 8,000 traces of 8,000 tokens, against tokenizing alone
	$(PY) scripts/traces_bench.py --report reports/bench/prepare_traces.json
