## Set up
.PHONY: setup system-packages venv llama llama-ready box tools
setup: llama box tools  ## everything of this section; every other target does by itself what it needs of it

system-packages:  ## install missing Debian packages where we are root, otherwise say what to run
	$(PYTHON) scripts/setup_system_packages.py

venv: $(VENV)  ## .venv with the packages of requirements.txt (1 to 3 minutes)
$(VENV): requirements.txt constraints.txt
	$(PYTHON) scripts/setup_system_packages.py
	$(PYTHON) scripts/setup_venv.py

llama: $(VENV)  ## pinned llama.cpp, patched, built into the cache and smoke-tested (6 to 12 minutes, once per machine)
	$(PY) scripts/setup_llama_cpp.py
llama-ready: $(VENV)
	@$(PY) scripts/setup_llama_cpp.py --quiet

box:  ## bubblewrap and libseccomp, which the box around a live agent is made with (Debian)
	@$(PYTHON) scripts/setup_system_packages.py --box

tools: $(VENV)  ## configs/hermes_tools.json again from the pinned hermes-agent, checked against its sha256
	$(PY) scripts/setup_hermes_tools.py
