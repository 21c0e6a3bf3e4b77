## Does it still call tools
.PHONY: eval mlx-evals mlx-variants hard eval-html compare equivalence drift
#: SUITE       a suite of your own for `make eval`, a JSON file anywhere, asked of QUANT or of the server at URL
#: EVAL_FLAGS  more flags for eval_run.py, as --model-name NAME, --temperature 0.2, --trials 3
#: A, B        two reports of one suite, for `make compare`
#: MARGIN      points of 100 within which a quant counts as its parent's equal (2)
#: PINS        other versions of llama-cpp-python, whose llama.cpp `make drift` tries
MARGIN ?= 2
QUANT_EVALS := $(foreach suite,$(SUITES),$(foreach name,bf16 $(KXL),$(EVALS)/$(suite).llama_cpp.$(name).json))
HARDER      := hard_157 long_15
HARD_EVALS  := $(foreach suite,$(HARDER),$(EVALS)/$(suite).llama_cpp.$(QUANT).json)
# What every evaluation depends on beside its model and its suite.
EVALUATED   := $(call content,configs/hermes_tools.json) $(PIN) $(call part,evaluate) $(call code,eval_run)

# A suite of one's own is checked before anything is made for it.
OWN_SUITE := $(basename $(notdir $(SUITE)))
CHECKED   := $(HEAVY)/suites/$(OWN_SUITE).checked
OWN_EVAL  := $(EVALS)/$(OWN_SUITE).llama_cpp.$(QUANT).json
ifneq ($(SUITE),)
$(CHECKED): $(or $(wildcard $(SUITE)),$(error SUITE=$(SUITE): no such file)) $(call code,eval_check_suite) | $(VENV)
	$(PY) scripts/eval_check_suite.py --suite $(SUITE) --out $@
$(OWN_EVAL): $(CHECKED) $(patsubst %,$(GGUF),$(QUANT)) $(EVALUATED) | $(VENV) llama-ready
	$(making)$(call logged,eval.$(OWN_SUITE).$(QUANT),$(PY) scripts/eval_run.py --suite $(SUITE) --config $(CONFIG) \
	  --gguf $(patsubst %,$(GGUF),$(QUANT)) --artifact $(QUANT) --out $@ $(EVAL_FLAGS))
endif
# Of a server of somebody else: the config's thresholds and sampling count where CONFIG was named.
JUDGED_BY = $(if $(filter command environment,$(firstword $(origin CONFIG))),--config $(CONFIG))
ASKED_OF_OURS = $(if $(SUITE),$(OWN_EVAL),$(QUANT_EVALS))
eval: $(if $(URL),$(VENV) $(if $(SUITE),$(CHECKED)),$(ASKED_OF_OURS))  ## every suite of the config, or SUITE; of URL
	$(if $(URL)$(SUITE),,$(call show,bf16 $(KXL)))
	$(if $(URL),$(foreach suite,$(or $(SUITE),$(patsubst %,evals/suites/%.json,$(SUITES))),$(PY) scripts/eval_run.py \
	  --backend openai --url $(call quoted,$(URL)) --suite $(suite) --artifact $(ARTIFACT) $(JUDGED_BY) \
	  --out $(EVALS)/$(basename $(notdir $(suite))).openai.$(ARTIFACT).json $(EVAL_FLAGS) &&) true)
define llama_evaluation
$$(EVALS)/$(1).llama_cpp.%.json: $$(GGUF) $$(call content,evals/suites/$(1).json) $$(EVALUATED) | $$(VENV) llama-ready
	$$(making)$$(call logged,eval.$(1).$$*,$$(call planned,eval:$(1):$$*) scripts/eval_run.py \
	  --suite evals/suites/$(1).json --config $$(CONFIG) --gguf $$< --artifact $$* --out $$@ \
	  --server-log $$(HEAVY)/server.$(1).$$*.log)
endef
$(foreach suite,$(sort $(SUITES) $(HARDER)),$(eval $(call llama_evaluation,$(suite))))
# MLX's variants of MODEL, each judged on every suite of the config by mlx_lm.server as it is installed.
VARIANTS := 8bit 6bit mixed
MLX_EVAL  = $(foreach suite,$(SUITES),$(EVALS)/$(suite).mlx.$(1).json)
mlx-evals: $(call MLX_EVAL,bf16)  ## every suite of the config on MODEL, served by mlx_lm.server
mlx-variants: $(foreach variant,bf16 $(VARIANTS),$(call MLX_EVAL,$(variant)))  ## 8-bit, 6-bit, mixed; judged
# $(1) suite, $(2) variant, $(3) its folder, $(4) the files to wait for.
define mlx_evaluation
$$(EVALS)/$(1).mlx.$(2).json: $(4) $$(call content,evals/suites/$(1).json) $$(EVALUATED) | $$(VENV)
	$$(call logged,eval.$(1).mlx.$(2),$$(call planned,eval:$(1):mlx) scripts/eval_run.py \
	  --suite evals/suites/$(1).json --config $$(CONFIG) --backend mlx --model $(3) --artifact $(2) --out $$@ \
	  --server-log $$(HEAVY)/server.$(1).mlx.$(2).log)
endef
$(foreach suite,$(SUITES),$(eval $(call mlx_evaluation,$(suite),bf16,$(MODEL),$(call part,model))) \
  $(foreach variant,$(VARIANTS),$(eval \
  $(call mlx_evaluation,$(suite),$(variant),$(HEAVY)/mlx/$(variant),$(HEAVY)/mlx/$(variant)/config.json))))

hard: $(HARD_EVALS)  ## the harder hand-written suites on QUANT: parallel, missing, irrelevant, recovering, long
eval-html: $(VENV)  ## runs/RUN/evals.html: every evaluation of this run on one page, failing cases first
	$(PY) scripts/eval_build_html.py --config $(CONFIG) --out $(HEAVY)/evals.html $(or $(wildcard $(EVALS)/*.json),\
	  $(wildcard evals/$(RUN)/*.json),$(error $(EVALS) has no reports yet: run make eval))
compare: $(VENV)  ## two reports of one suite, case by case: A=report.json B=report.json
	$(PY) scripts/eval_compare.py $(or $(A),$(error add A=report.json B=report.json)) $(or $(B),$(error add B=report.json))
equivalence: $(VENV)  ## which quants are proven equivalent to BF16, by all their evaluations; the cases that flipped
	$(PY) scripts/eval_prove_equivalence.py $(or $(call every,$(EVALS)/*.llama_cpp.*.json),$(error $(EVALS) has no \
	  reports yet: run make eval)) --margin $(MARGIN) --out $(REPORTS)/equivalence.json
ifneq ($(filter drift,$(MAKECMDGOALS)),)
$(if $(PINS),,$(error add PINS="VERSION VERSION", of llama-cpp-python))
endif
drift: $(patsubst %,$(GGUF),$(QUANT)) | $(VENV) llama-ready  ## QUANT in other versions of llama.cpp: PINS="0.3.35 …"
	$(PY) scripts/eval_measure_drift.py --gguf $< --model $(MODEL) --work $(HEAVY)/drift --out $(REPORTS)/drift.json \
	  $(addprefix --pin ,$(PINS))
