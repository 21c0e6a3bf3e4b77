## From checkpoint to quants
.PHONY: gguf parity imatrix prove-settling $(KXL) kxl lint stock sizes quants
#: TAKE_IMATRIX  take this importance matrix, as that of a release, instead of computing one: same bytes on any CPU
ROW_FILE := $(or $(ROWS),$(HEAVY)/rows.jsonl)
IMATRIX  := $(HEAVY)/imatrix.gguf
SIZES    := reports/lfm2.5-8b-a1b/sizes.json

gguf: $(BF16)  ## BF16 GGUF of the checkpoint
$(BF16): $(call part,convert) $(call part,model) $(PIN) $(call code,quant_convert) | $(VENV) llama-ready
	$(making)$(need_model)$(call planned,gguf) scripts/quant_convert.py --model $(MODEL) --config $(CONFIG) --run $(RUN) \
	  --out $@ --log $(LOGS)/convert.log

imatrix: $(IMATRIX)  ## importance matrix from conversations with calls; refused when an expert saw too few tokens
# The two texts keep their time where they say the same again, so that another suite makes no other imatrix.
$(HEAVY)/calibration.txt $(HEAVY)/heldout.txt: $(HEAVY)/calibrated ; +@:
$(HEAVY)/calibrated: $(if $(ROWS),,$(ROW_FILE)) $(call part,rows) $(call part,tokenizer) $(call part,calibrate) \
  $(SUITES_SAY) $(call code,quant_build_calibration) | $(VENV)
	$(PY) scripts/quant_build_calibration.py --rows $(ROW_FILE) --model $(MODEL) $(SUITE_FLAGS) --config $(CONFIG) \
	  --calibration $(HEAVY)/calibration.txt --heldout $(HEAVY)/heldout.txt --report $(REPORTS)/calibration.json
	@touch $@
# The sums of an imatrix differ by processor in their last digits, and with them the quants' bytes; nothing else does.
ifneq ($(TAKE_IMATRIX),)
$(IMATRIX): $(call part,imatrix) | $(BF16) $(HEAVY)/lint.txt
	$(making)cp $(TAKE_IMATRIX) $@.partial && mv $@.partial $@
else
$(IMATRIX): $(BF16) $(HEAVY)/calibration.txt $(call part,imatrix) $(call code,quant_compute_imatrix) \
  | $(VENV) llama-ready $(HEAVY)/lint.txt
	$(making)$(call planned,imatrix) scripts/quant_compute_imatrix.py --gguf $(BF16) --text $(HEAVY)/calibration.txt \
	  --config $(CONFIG) --out $@ --report $(REPORTS)/imatrix.json --log $(LOGS)/imatrix.log
endif
prove-settling: $(REPORTS)/settling.json  ## proof that an importance matrix may end when its halves agree (a minute)
$(REPORTS)/settling.json: $(BF16) $(HEAVY)/calibration.txt $(call code,quant_prove_settling quant_compute_imatrix) \
  | $(VENV) llama-ready
	$(PY) scripts/quant_prove_settling.py --gguf $(BF16) --text $(HEAVY)/calibration.txt --heldout $(HEAVY)/heldout.txt \
	  --work $(HEAVY)/settling --report $@

parity: $(REPORTS)/parity.json  ## proof that MLX and llama.cpp compute the same logits from this checkpoint
$(REPORTS)/parity.json: $(BF16) $(HEAVY)/heldout.txt $(call code,quant_check_parity) | $(VENV) llama-ready
	$(call logged,parity,$(call planned,parity) scripts/quant_check_parity.py --model $(MODEL) --gguf $(BF16) \
	  --text $(HEAVY)/heldout.txt --per-prompt 40 --report $@ --log $(HEAVY)/parity.server.log)

# One line per quant: GGUF by its policy, served at full context, all cases of the suite passed.
q8kxl: $(patsubst %,$(FIXED),q8kxl)  ## Q8KXL, with its 43 tool-calling cases passed in llama-server
q6kxl: $(patsubst %,$(FIXED),q6kxl)  ## Q6KXL, the same
q5kxl: $(patsubst %,$(FIXED),q5kxl)  ## Q5KXL, the same
q4kxl: $(patsubst %,$(FIXED),q4kxl)  ## Q4KXL, the same: the main job
$(KXL):
	$(call show,$@)
kxl: $(patsubst %,$(FIXED),bf16 $(KXL))  ## BF16 and all four
	$(call show,bf16 $(KXL))

QUANTIZE = $(making)$(1) scripts/quant_quantize.py --gguf $(BF16) --imatrix $(IMATRIX) --out $@ \
  --log $(LOGS)/quantize.$*.log
# A policy that cannot be is refused before an imatrix is computed for it.
LINTED := $(HEAVY)/lint.txt
$(LINTED): $(BF16) $(call content,gguf/export_plan.json $(patsubst %,gguf/%.tensor-types,$(KXL))) \
  $(call code,quant_lint) | $(VENV)
	$(PY) scripts/quant_lint.py --gguf $(BF16) $(addprefix --policy ,$(KXL)) --out $@
QUANTIZED_FROM := $(BF16) $(IMATRIX) $(call content,gguf/export_plan.json) $(call code,quant_quantize)
# Whose types the KXL have: those written by hand, or those found in an estimate of this very model, at the same bytes.
POLICY_PLAN := $(if $(filter estimated,$(POLICIES_ARE)),$(HEAVY)/estimated/plan.json,gguf/export_plan.json)
$(patsubst %,$(GGUF),$(KXL)): $(GGUF): $(QUANTIZED_FROM) $(call content,gguf/%.tensor-types) $(call part,policies) \
  $(filter runs/%,$(POLICY_PLAN)) | $(VENV) llama-ready
	$(call QUANTIZE,$(call planned,$*)) --policy $* --plan $(POLICY_PLAN)
$(patsubst %,$(GGUF),$(STOCK)): $(GGUF): $(QUANTIZED_FROM) | $(VENV) llama-ready
	$(call QUANTIZE,$(PY)) --stock $*
lint: $(BF16)  ## check every policy against the BF16 GGUF, without quantizing
	$(PY) scripts/quant_lint.py --gguf $(BF16)
stock: $(patsubst %,$(GGUF),$(STOCK))  ## llama.cpp's own Q8_0, Q6_K, Q5_K_M and Q4_K_M, to compare with

sizes: $(SIZES)  ## size of every policy and stock type at LFM2-8B-A1B's real shapes
$(SIZES): $(call content,gguf/export_plan.json $(wildcard gguf/*.tensor-types gguf/*.shapes.json)) $(PIN) \
  $(call code,quant_predict_sizes) | $(VENV) llama-ready
	$(PY) scripts/quant_predict_sizes.py --report $@

quants: $(REPORTS)/quants.json  ## KL divergence from BF16 and same-top-p of each quant, on held-out tool traces
MEASURED := bf16 $(KXL) $(STOCK)
$(REPORTS)/quants.json: $(patsubst %,$(GGUF),$(MEASURED)) $(HEAVY)/heldout.txt $(call part,measure) \
  $(call content,gguf/export_plan.json) $(call code,quant_measure) | $(VENV) llama-ready
	$(call planned,quants) scripts/quant_measure.py --base $(BF16) --text $(HEAVY)/heldout.txt \
	  --plan $(POLICY_PLAN) $(foreach name,$(MEASURED),--artifact $(name)=$(patsubst %,$(GGUF),$(name))) \
	  --config $(CONFIG) --work $(HEAVY)/kld --report $@ --logs $(LOGS)
