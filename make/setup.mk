## Set up
.PHONY: setup system-packages venv llama llama-ready tools
setup: llama tools  ## everything of this section; every other target does by itself what it needs of it

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

tools: $(VENV)  ## configs/hermes_tools.json again from the pinned hermes-agent, checked against its sha256
	$(PY) scripts/setup_hermes_tools.py
