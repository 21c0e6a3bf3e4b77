## Does it still call tools
.PHONY: eval mlx-evals mlx-variants hard eval-html bfcl compare
#: A, B  two reports of one suite, for `make compare`
QUANT_EVALS := $(foreach suite,$(SUITES),$(foreach name,bf16 $(KXL),$(EVALS)/$(suite).llama_cpp.$(name).json))
HARDER      := hard_157 long_15
HARD_EVALS  := $(foreach suite,$(HARDER),$(EVALS)/$(suite).llama_cpp.$(QUANT).json)
# What every evaluation depends on beside its model and its suite.
EVALUATED   := configs/hermes_tools.json $(PIN) $(call part,evaluate) $(call code,eval_run)

eval: $(QUANT_EVALS)  ## every suite of the config on BF16 and each KXL
	$(call show,bf16 $(KXL))
define llama_evaluation
$$(EVALS)/$(1).llama_cpp.%.json: $$(GGUF) evals/suites/$(1).json $$(EVALUATED) | $$(VENV) llama-ready
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
$$(EVALS)/$(1).mlx.$(2).json: $(4) evals/suites/$(1).json $$(EVALUATED) | $$(VENV)
	$$(call logged,eval.$(1).mlx.$(2),$$(call planned,eval:$(1):mlx) scripts/eval_run.py \
	  --suite evals/suites/$(1).json --config $$(CONFIG) --backend mlx --model $(3) --artifact $(2) --out $$@ \
	  --server-log $$(HEAVY)/server.$(1).mlx.$(2).log)
endef
$(foreach suite,$(SUITES),$(eval $(call mlx_evaluation,$(suite),bf16,$(MODEL),$(MODEL_FILES) $(call part,model))) \
  $(foreach variant,$(VARIANTS),$(eval \
  $(call mlx_evaluation,$(suite),$(variant),$(HEAVY)/mlx/$(variant),$(HEAVY)/mlx/$(variant)/config.json))))

hard: $(HARD_EVALS)  ## the harder hand-written suites on QUANT: parallel, missing, irrelevant, recovering, long
eval-html: $(VENV)  ## runs/RUN/evals.html: every evaluation of this run on one page, failing cases first
	$(PY) scripts/eval_build_html.py --out $(HEAVY)/evals.html $(or $(wildcard $(EVALS)/*.json \
	  $(HEAVY)/bfcl.*.*.json),$(error $(EVALS) has no reports yet: run make eval))
bfcl: $(HEAVY)/bfcl.llama_cpp.$(QUANT).json  ## Berkeley Function Calling (single turn, AST match) on QUANT
$(HEAVY)/bfcl.json: third_party/bfcl-eval.lock $(call code,eval_convert_bfcl) | $(VENV)
	$(PY) scripts/eval_convert_bfcl.py --out $@
$(HEAVY)/bfcl.llama_cpp.%.json: $(GGUF) $(HEAVY)/bfcl.json $(EVALUATED) | $(VENV) llama-ready
	$(PY) scripts/eval_run.py --suite $(HEAVY)/bfcl.json --gguf $< --artifact $* --out $@
compare: $(VENV)  ## two reports of one suite, case by case: A=report.json B=report.json
	$(PY) scripts/eval_compare.py $(or $(A),$(error add A=report.json B=report.json)) $(or $(B),$(error add B=report.json))
