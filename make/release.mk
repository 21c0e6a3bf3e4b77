## What is published
.PHONY: release package publish visuals release-summary card verify serve claims
#: REPO              the hub repository that the printed upload commands name (ORG/NAME)
#: DIR               the release folder that `make verify` checks and `make serve` reads (runs/RUN/release)
#: CLAIMS            --update lets `make claims` write the numbers that the reports hold today
#: TRAINING_REPORTS  what card and summary tell of the training (the run's own)
REPO ?= ORG/NAME
# $(call told,REPORTS): each as this run made it here, a failed one too, or else the copy that is published.
copy = $(patsubst $(EVALS)/%,evals/$(RUN)/%,$(patsubst $(REPORTS)/%,reports/$(RUN)/%,$(1)))
told = $(foreach report,$(1),$(firstword \
  $(foreach file,$(report) $(report:.json=.failed.json) $(call copy,$(report)),$(wildcard $(file))) $(report)))
# $(call every,PATTERN): each report that is here or published, once.
every = $(call told,$(sort $(filter-out %.failed.json,$(wildcard $(1)) \
  $(patsubst evals/$(RUN)/%,$(EVALS)/%,$(patsubst reports/$(RUN)/%,$(REPORTS)/%,$(wildcard $(call copy,$(1))))))))
TRAINING_REPORTS ?= $(call every,$(REPORTS)/*training*.json)
TRAINING_FLAGS := $(addprefix --training ,$(TRAINING_REPORTS))
# The README and release_summary.json speak of the tiny run; another run's stay among its reports.
OURS    := $(filter tiny,$(RUN))
FIGURES := $(if $(OURS),visuals,$(REPORTS)/visuals)
SUMMARY := $(if $(OURS),,$(REPORTS)/)release_summary.json
CARD    := $(if $(OURS),$(call copy,$(REPORTS)/MODEL_CARD.md),$(REPORTS)/MODEL_CARD.md)
ALL_EVALS := $(QUANT_EVALS) $(call MLX_EVAL,bf16)
# Gated or not, the card tells every suite that was run.
OTHER_EVALS = $(call every,$(EVALS)/*.json)

MEASURES := $(REPORTS)/parity.json $(REPORTS)/quants.json $(SIZES)
release: $(ALL_EVALS) $(MEASURES)  ## everything above for this run, then summary, figures and a folder to upload
	$(MAKE) package
package: $(VENV)  ## the release of the GGUFs and reports that are there; refused where a file is not its report's
	$(MAKE) release-summary
	$(MAKE) equivalence
	$(MAKE) publish
	$(MAKE) visuals card
	$(call planned,package) scripts/release_build.py --summary $(SUMMARY) \
	  $(foreach name,bf16 $(KXL),--artifact $(name)=$(patsubst %,$(GGUF),$(name))) --imatrix $(IMATRIX) \
	  --card $(CARD) $(if $(OPEN_LICENSE),--license-file LICENSE) --repo $(REPO) --out $(HEAVY)/release
publish: $(VENV)  ## copy runs/RUN/results to evals/RUN, reports/RUN and logs/RUN, to be committed
	$(PY) scripts/release_publish.py --run $(RUN)
release-summary: $(VENV)  ## release_summary.json, from reports alone; refused when a gate fails
	$(PY) scripts/release_summarize.py --config $(CONFIG) --sizes $(SIZES) \
	  $(foreach name,quants imatrix parity,--$(name) $(call told,$(REPORTS)/$(name).json)) \
	  $(addprefix --eval ,$(sort $(call told,$(ALL_EVALS)) $(OTHER_EVALS))) $(TRAINING_FLAGS) --run $(RUN) --out $(SUMMARY)
card: $(VENV)  ## the model card, from the summary and the training reports
	$(PY) scripts/release_card.py --config $(CONFIG) --summary $(SUMMARY) $(TRAINING_FLAGS) --repo $(REPO) \
	  $(call figure,equivalence,$(REPORTS)/equivalence.json) $(addprefix --model ,$(wildcard $(MODEL))) --out $(CARD)
claims: $(VENV)  ## check every number of README, docs and card against its report (CLAIMS=--update writes new ones)
	$(PY) scripts/release_check_claims.py $(CLAIMS)
verify: $(VENV)  ## check a release folder, or a copy of it, file by file: make verify DIR=runs/tiny/release
	$(PY) scripts/release_verify.py --dir $(call quoted,$(or $(DIR),$(HEAVY)/release))
serve: $(VENV)  ## how QUANT of a release folder is served: exact settings of llama-server, mlx_lm.server, Hermes (DIR=)
	@$(PY) scripts/release_serve.py --dir $(call quoted,$(or $(DIR),$(HEAVY)/release)) --quant $(QUANT)

# $(call figure,FLAG,REPORT): a figure's report, where it is there.
figure = $(addprefix --$(1) ,$(wildcard $(call told,$(2))))
OUR_FIGURES := $(call figure,sweep,$(EIGHT)/group_sweep.json) $(call figure,memory,$(EIGHT)/memory_model.json) \
  $(call figure,proof,reports/prove-8b/memory.json) $(call figure,emission,reports/smollm2-135m/emission.json) \
  $(call figure,repair,reports/tiny-repair/repair.json)
visuals: $(VENV)  ## the figures, from reports alone
	$(PY) scripts/build_visual_assets.py --out $(FIGURES) --sizes $(SIZES) \
	  $(addprefix --eval ,$(call told,$(patsubst %,$(FIXED),bf16 $(KXL)))) \
	  $(foreach name,calibration imatrix parity quants,--$(name) $(call told,$(REPORTS)/$(name).json)) \
	  $(call figure,dataset,$(REPORTS)/dataset.json) \
	  $(call figure,search,$(REPORTS)/policy_search.json) \
	  $(if $(OURS),$(OUR_FIGURES),$(call figure,repair,$(REPORTS)/repair.json))
