## In the real agent
.PHONY: hermes-live install-net uninstall-net install-thoughts remove-thoughts
#: URL          a server that runs already, to be tried instead of QUANT
#: ARTIFACT     the name of what URL serves, in the report (server)
#: TRIALS       how often the agent tries each task, with other words each time (3)
#: LIVE_FLAGS   more flags for live_run.py
#: HERMES_HOME  the Hermes that install-net and install-thoughts change
ARTIFACT ?= server
TRIALS   ?= 3
LIVE     := $(EVALS)/hermes_live.llama_cpp.%.json
hermes-live: $(if $(URL),$(VENV) box,$(patsubst %,$(LIVE),$(QUANT)))  ## a real Hermes Agent does real tasks
	$(if $(URL),$(PY) scripts/live_run.py --url $(call quoted,$(URL)) --artifact $(ARTIFACT) --trials $(TRIALS) \
	  --out $(EVALS)/hermes_live.openai.$(ARTIFACT).json $(LIVE_FLAGS))
$(LIVE): $(GGUF) $(call content,$(wildcard evals/live/*.json) third_party/hermes-agent-full.requirements.txt) \
  $(PIN) $(call part,evaluate) $(call code,live_run) | $(VENV) llama-ready box
	$(making)$(call logged,hermes-live.$*,$(PY) scripts/live_run.py --gguf $< --artifact $* --config $(CONFIG) \
	  --trials $(TRIALS) --out $@ --server-log $(HEAVY)/server.hermes_live.$*.log $(LIVE_FLAGS))
NET = $(PY) scripts/live_install_net.py --home \
  $(call quoted,$(or $(HERMES_HOME),$(error add HERMES_HOME=folder, as in HERMES_HOME=$$HOME/.hermes)))
install-net: $(VENV)  ## a Hermes plugin into HERMES_HOME that makes a real call of one that arrives as text
	$(NET)
uninstall-net: $(VENV)  ## undo install-net
	$(NET) --remove
install-thoughts: $(VENV)  ## a Hermes plugin into HERMES_HOME that gives a model its thoughts on the request back
	$(NET) --plugin thoughts
remove-thoughts: $(VENV)  ## undo install-thoughts
	$(NET) --plugin thoughts --remove
