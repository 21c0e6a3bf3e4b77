## Plan and whole line
.PHONY: plan plan-report line prove-line rehearse-8b
#: LINE_MODEL  the checkpoint that the second half of `make line` takes (the best of the repair)
# $(call planned,STAGE) starts a script: refused at once where memory or disk cannot suffice, measured beside the plan.
# What all stages of a run share goes there by the environment.
PLAN_FLAGS = --run $(RUN) --config $(CONFIG) $(addprefix --model ,$(wildcard $(MODEL))) --training $(TRAINING) \
  --profile $(PROFILE)
planned = $(PY) scripts/plan_run.py $(1) --
export HERMES_KXL_PLAN = $(PLAN_FLAGS)

# The line as a plan sees it, in order. What a run begins with a trained checkpoint is not trained again.
TRAINS  := $(wildcard $(TRAINING))
PLANNED := data=$(DATA)/train.jsonl $(if $(TRAINS),core=$(CORE)/config.json train=$(REPORTS)/moe.$(MODE).json \
  step=$(MOE_RUN)/bf16/config.json) repair-loop=$(REPORTS)/repair.json gguf=$(BF16) imatrix=$(IMATRIX) \
  parity=$(REPORTS)/parity.json $(foreach name,$(KXL),$(name)=$(patsubst %,$(GGUF),$(name))) \
  $(foreach suite,$(SUITES),$(foreach name,bf16 $(KXL),eval:$(suite):$(name)=$(EVALS)/$(suite).llama_cpp.$(name).json) \
  eval:$(suite):mlx=$(EVALS)/$(suite).mlx.bf16.json) quants=$(REPORTS)/quants.json package=$(HEAVY)/release
plan: $(VENV)  ## what the line will take here before it begins: time, memory, disk by stage, and what does not fit
	@$(PY) scripts/plan_show.py $(PLAN_FLAGS) $(addprefix --trace ,$(wildcard $(TRACE_FILES))) \
	  $(addprefix --encoded ,$(wildcard $(MOE_RUN)/train.jsonl)) \
	  $(addprefix --stage ,$(PLANNED))

plan-report: $(VENV)  ## what the line's stages took beside their plan, as a report
	$(PY) scripts/plan_compare.py $(addprefix --run ,$(RUN) $(if $(wildcard runs/$(TUNED)/plan.jsonl),$(TUNED))) \
	  --profile $(PROFILE) --report $(REPORTS)/plan.json

rehearse-8b: $(VENV) | llama-ready  ## the line with random weights of LFM2.5-8B-A1B's size (over half an hour; resumes)
	$(PY) scripts/plan_rehearse.py --work runs/rehearse-8b --profile $(PROFILE) --report reports/rehearse-8b/line.json

# The reference's whole flow. Each line is a target of its own that resumes; the first gate that is missed ends it, and
# says what to do. The repaired checkpoint is another model, so its quants are a run of their own: RUN-tuned.
TUNED      := $(RUN)-tuned
LINE_MODEL ?= $(REPAIR)/best
AGAIN = $(MAKE) --no-print-directory RUN=$(RUN)
then = || { echo "make line stopped at $(1): mend what its last lines name, then run the same again" >&2; exit 2; }
line: $(VENV)  ## from traces to a release: data, train, step, repair-loop, release, verify; stops at gates
	$(AGAIN) data         $(call then,data)
	$(AGAIN) train        $(call then,train)
	$(AGAIN) step         $(call then,step)
	$(AGAIN) repair-loop START=$(MOE_RUN)/bf16 REPAIR_DATA=$(HEAVY)/repair_rows  $(call then,repair-loop)
	$(MAKE) --no-print-directory release RUN=$(TUNED) CONFIG=$(CONFIG) MODEL=$(LINE_MODEL) \
	  $(addprefix ROWS=,$(ROWS)) TRAINING_REPORTS="$(wildcard $(REPORTS)/moe.$(MODE).json)"  $(call then,release)
	$(MAKE) --no-print-directory verify RUN=$(TUNED)  $(call then,verify)

prove-line: $(VENV) | llama-ready  ## the tiny line in a fresh copy, each stage killed once, beside its plan (an hour)
	$(PY) scripts/plan_prove_line.py --profile $(PROFILE) --report reports/tiny/line.json
