## Berkeley Function Calling
.PHONY: bfcl bfcl-cases bfcl-agreement bfcl-agents bfcl-smol
#: BFCL_SUBSET      at most so many cases of each category, drawn by seed (all: hours on a CPU)
#: BFCL_CATEGORIES  categories or groups: non_live live all_irrelevance relevance multi_turn memory (all)
#: BFCL_FLAGS       more flags for bfcl_run.py, such as --parallel 4
BFCL_CATEGORIES ?= all
BFCL_CASES   := runs/bfcl/cases.jsonl
BFCL_PINS    := third_party/bfcl-eval.lock third_party/bfcl-eval.requirements.txt
BFCL_CHOSEN   = --cases $(BFCL_CASES) $(addprefix --subset ,$(BFCL_SUBSET)) --categories $(BFCL_CATEGORIES)
BFCL          = $(PY) scripts/bfcl_run.py
BFCL_REPORT   = $(EVALS)/bfcl.llama_cpp.%.json
bfcl: $(if $(URL),$(BFCL_CASES) box,$(patsubst %,$(BFCL_REPORT),$(QUANT)))  ## its offline categories on QUANT, or URL
	$(if $(URL),$(BFCL) $(BFCL_CHOSEN) --url $(call quoted,$(URL)) --artifact $(ARTIFACT) \
	  --out $(EVALS)/bfcl.openai.$(ARTIFACT).json $(BFCL_FLAGS))
$(BFCL_REPORT): $(GGUF) $(BFCL_CASES) $(HEAVY)/bfcl.choice $(PIN) $(call part,evaluate) \
  $(call code,bfcl_run) | $(VENV) llama-ready box
	$(BFCL) $(BFCL_CHOSEN) --config $(CONFIG) --gguf $< --artifact $* --out $@ $(BFCL_FLAGS)
# New when other cases are asked for than the last time.
BFCL_CHOICE = echo $(call quoted,$(BFCL_CHOSEN) $(BFCL_FLAGS))
$(HEAVY)/bfcl.choice: FORCE
	@mkdir -p $(@D); $(BFCL_CHOICE) | cmp -s - $@ || $(BFCL_CHOICE) > $@
bfcl-cases: $(BFCL_CASES)  ## its cases that run offline, as the pinned wheel's own code makes them
$(BFCL_CASES): $(BFCL_PINS) $(call code,bfcl_convert) | $(VENV)
	$(PY) scripts/bfcl_convert.py --out $@
bfcl-agreement: reports/bench/bfcl_agreement.json  ## our verdicts against the wheel's own checkers (two minutes)
reports/bench/bfcl_agreement.json: $(BFCL_CASES) $(call code,bfcl_agree) | $(VENV) box
	$(PY) scripts/bfcl_agree.py --cases $< --out $@
# No model: what answers right passes, what does nothing passes only where nothing is asked for.
BFCL_AGENTS := $(foreach agent,perfect nothing,reports/bench/bfcl_agent.$(agent).json)
bfcl-agents: $(BFCL_AGENTS)  ## a scripted perfect agent and one that does nothing, on every case (a minute)
reports/bench/bfcl_agent.%.json: $(BFCL_CASES) $(call code,bfcl_run) | $(VENV) box
	$(BFCL) --cases $< --agent $* --artifact $* --no-details --out $@
# SmolLM2-135M before and after its tool tokens, on no category that its training rows are drawn from. Its context is
# 8,192 tokens, so of the conversations only the short ones are tried.
BFCL_TRAINED  := simple_python multiple live_simple live_multiple parallel parallel_multiple live_parallel \
  irrelevance live_irrelevance
BFCL_UNSEEN   := simple_java simple_javascript live_parallel_multiple live_relevance multi_turn_base
BFCL_SMOL      = reports/$(SMOL_NAME)/bfcl.%.json
bfcl-smol: $(foreach name,base bf16,$(patsubst %,$(BFCL_SMOL),$(name)))  ## SmolLM2-135M before and after smollora
$(BFCL_SMOL): $(SMOL)/%.gguf $(BFCL_CASES) $(call code,bfcl_run) | $(VENV) llama-ready box
	$(BFCL) --cases $(BFCL_CASES) --gguf $< --artifact $* --trained-on $(BFCL_TRAINED) --categories $(BFCL_UNSEEN) \
	  --subset $(or $(BFCL_SUBSET),10) --context 8192 --max-tokens 128 --out $@ $(BFCL_FLAGS)
