# hermes-kxl: from a fused LFM2-MoE checkpoint to GGUF quants that still call tools.
# `make` lists the targets in the order of the line; `make q4kxl` is the main job.
# The rules of each stage stand in make/STAGE.mk. Written for GNU make 3.81, which is what macOS has.

MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

#: RUN       names a run: its files are in runs/RUN, its reports in runs/RUN/results (the config's name)
#: CONFIG    the model's settings (the config named like RUN, else configs/tiny.json)
#: MODEL     the fused checkpoint, a folder as mlx_lm or transformers saves it (the config's own)
#: TRACES    what `make data` reads: files, folders, hub dataset ids (shipped traces and generated rows)
#: ROWS      conversations for the imatrix and the KL divergence, JSON lines (generated ones)
#: TRAINING  settings of `make train` (the config's, with -moe in its name)
#: REVISION  the commit of a MODEL on the hub
#: QUANT     the artifact for the harder suites and the live agent (q4kxl)
#: PYTHON    the Python that .venv is made with, 3.11 or newer (python3)
#: A run remembers CONFIG to REVISION, and TAKE_IMATRIX, from its first command: later ones need RUN= alone.
#: A value holds no space and no sign that a shell obeys; TRACES and its like hold several words, *_FLAGS quotes, too.
PYTHON ?= python3
QUANT  ?= q4kxl

# What a script prints appears when it prints it, errors behind it.
export PYTHONUNBUFFERED := 1

# In single quotes for the shell, whatever $(1) holds.
quoted = '$(subst ','\'',$(1))'
# --set NAME=VALUE for each variable that the person gave, on the command line or in the environment, as it was written:
# it is checked before anything here reads it, and what make or a shell would obey is refused (kxl/house/variables.py).
# The end of a line is spelled out, as make drops it on its way to a shell.
given  = $(foreach name,$(1),$(if $(filter command environment,$(firstword $(origin $(name)))),\
  --set $(call quoted,$(name)=$(subst $(newline),$$(newline),$(value $(name))))))
define newline


endef
VARIABLES := RUN CONFIG MODEL TRACES ROWS TRAINING REVISION TAKE_IMATRIX QUANT ARTIFACT URL TRIALS LIVE_FLAGS \
  HERMES_HOME SUITE EVAL_FLAGS A B MARGIN PINS BFCL_SUBSET BFCL_CATEGORIES BFCL_FLAGS BUDGET NAME TABLE WITHOUT SHAPES \
  FIT CONTEXT MODE STEP HARDWARE LEAVE_GIB SEEDS MINUTES TOKENS GROUPED_PASSES LINE_MODEL ITER START REPAIR_DATA REPO \
  DIR CLAIMS TRAINING_REPORTS SMOL_CONFIG SMOL_MODEL SMOL_TRACES SMOL_MINUTES SMOL_STEPS SMOL_SERVED
GIVEN := $(call given,$(VARIABLES))
# Settings with names, and a stamp for the code of each script; both written only where something changed.
SETTINGS := $(shell $(PYTHON) scripts/settings.py $(GIVEN) --goals $(call quoted,$(MAKECMDGOALS)) \
  $(if $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS)))),--dry-run) && $(PYTHON) scripts/depends.py)
ifeq ($(SETTINGS),)
$(error nothing was made; the line above says why)
endif
include $(SETTINGS)

HEAVY   := runs/$(RUN)
# What a run finds out stays with it; `make publish` copies it to evals/RUN, reports/RUN, logs/RUN, which are committed.
RESULTS := $(HEAVY)/results
EVALS   := $(RESULTS)/evals
REPORTS := $(RESULTS)/reports
LOGS    := $(RESULTS)/logs
# $(call code,SCRIPT): new when the script or a module that it imports says something else.
code = $(addprefix runs/code/,$(1))
# $(call part,NAME): new when that part of config and run is another, or a file that it names holds another thing.
part = $(HEAVY)/settings/$(1).json
# $(call content,FILES): new when a file of the tree holds another thing, whatever its time says.
content = $(addprefix runs/content/,$(1))
# Each script notes its start and end there; `make status` reads it.
export HERMES_KXL_HISTORY := $(HEAVY)/history.jsonl

# Make's name of an artifact: % is bf16, a policy or a stock type. Make's name of its evaluation by the main suite:
# fixed_hermes_43 where the config has it, else the config's first.
GGUF  := $(HEAVY)/$(ARTIFACT_NAME)
BF16  := $(patsubst %,$(GGUF),bf16)
FIXED := $(EVALS)/$(MAIN_SUITE).llama_cpp.%.json

VENV := .venv/complete
PY   := .venv/bin/python
# The pin decides what the binaries do. Whether they are built is asked of the cache, each time (llama-ready).
PIN  := $(call content,third_party/llama.cpp.lock $(wildcard patches/*.patch))
need_model   = $(if $(MODEL),,$(error $(CONFIG) has no checkpoint of its own: add MODEL=folder RUN=name))

# Noted by each recipe that makes an artifact, so that a target can say "up to date" when none ran.
making = $(eval MADE := yes)
# $(call logged,NAME,COMMAND) keeps what COMMAND prints in logs/RUN/NAME.log, too; its progress stays on the terminal.
# Plain sh gives a pipe the exit code of tee, so the command's own goes around it, through descriptor 3.
logged = @mkdir -p $(LOGS); echo $(call quoted,$(2)); \
  { status=$$({ { $(2); echo $$? >&3; } | tee $(LOGS)/$(1).log >&4; } 3>&1); } 4>&1; exit $${status:-1}
show   = @HERMES_KXL_HISTORY= $(PY) scripts/quant_show.py $(if $(MADE),,--up-to-date) \
  --gguf $(patsubst %,$(GGUF),$(1)) --report $(patsubst %,$(FIXED),$(1))

.PHONY: help FORCE
help:
	@awk -F ':.*## ' '/^[a-z0-9%-]+( [a-z0-9-]+)*:.*## / { printf "  %-20s %s\n", $$1, $$2 } \
	  /^## / { print substr($$0, 4) } /^#: / { print "  " substr($$0, 4) }' $(MAKEFILES_SHOWN)

STAGES_OF_THE_LINE := setup tiny traces moe quant eval repair live smol bfcl search release plan house
MAKEFILES_SHOWN    := Makefile $(patsubst %,make/%.mk,$(STAGES_OF_THE_LINE))
include $(patsubst %,make/%.mk,$(STAGES_OF_THE_LINE))
