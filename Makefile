# Two commands do everything: `make demo` and `make test`. Each makes .venv from pinned versions by itself.
SHELL := /bin/bash
PYTHON ?= python3.11
# The CPU build of torch. On a GPU machine: make install TORCH=torch==2.13.0
TORCH ?= torch==2.13.0+cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := .venv/bin/pip install --disable-pip-version-check --progress-bar off
INSTALLED := .venv/installed-$(subst =,,$(TORCH))
# DeepSpeed compiles with ninja, which pip puts into .venv.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
SLURM := slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge iproute2 shellcheck
PEERS := mosaicml-streaming==0.13.0 litdata==0.2.76 lightning-utilities==0.15.3 boto3==1.44.8 botocore==1.44.8 \
	s3transfer==0.19.3 jmespath==1.1.0 tifffile==2026.3.3 obstore==0.12.1 Brotli==1.2.1 zstd==1.5.7.2 \
	python-snappy==0.7.3 cramjam==2.14.0 catalogue==2.0.10 binpacking==2.0.1
CPU := DS_ACCELERATOR=cpu HF_HUB_OFFLINE=1

.PHONY: help install demo demo-smoke test slurm-install slurm-test slurm-smoke bench-peers lint clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

install: $(INSTALLED) ## make .venv from constraints.txt

$(INSTALLED): constraints.txt setup.cfg Makefile
	@command -v $(PYTHON) >/dev/null || { echo "ERROR $(PYTHON) is missing. Install it (apt-get install python3.11), or name one: make PYTHON=python3"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "ERROR $(PYTHON) can't make a virtual environment. Install it: apt-get install python3-venv"; exit 2; }
	@command -v g++ >/dev/null || { echo "ERROR g++ is missing, DeepSpeed compiles a module with it. Install it: apt-get install g++"; exit 2; }
	@$(PYTHON) -c 'import pathlib, sysconfig, sys; sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").exists())' || { echo "ERROR Python.h is missing, DeepSpeed compiles a module with it. Install it: apt-get install python3-dev"; exit 2; }
	@echo "--- installing into .venv (about 2 GB, a minute or two)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -q "$(TORCH)" 2>/dev/null || $(PIP) --index-url $(TORCH_INDEX) "$(TORCH)"
	$(PIP) -c constraints.txt -e '.[dev]'
	@echo "--- compiling DeepSpeed's CPU communication, once (half a minute)"
	$(CPU) $(BIN)/python -m phi3v_dist.cluster.compiled
	@touch $(INSTALLED)

demo: $(INSTALLED) ## the main job end to end on CPU, in runs/demo (about 7 minutes)
	$(CPU) $(BIN)/python tools/demo.py runs/demo

demo-smoke: $(INSTALLED) ## the demo's whole way in under 3 minutes, without the score bars
	rm -rf runs/demo-smoke
	$(CPU) $(BIN)/python tools/demo.py --products 400 --steps 60 --no-bars runs/demo-smoke

# Two files at a time: a test of ranks mostly waits, for a launcher, a time limit, the other rank.
test: $(INSTALLED) ## all tests
	$(CPU) $(BIN)/python -m pytest -n 2 --dist loadfile

slurm-install: ## Debian's Slurm, for the two below (root)
	@test $$(id -u) = 0 || { echo "ERROR a virtual Slurm cluster needs root (found user $$(id -un)). Run it as root, in a container or a virtual machine"; exit 2; }
	@PATH=$$PATH:/usr/sbin; for needed in slurmctld slurmd sbatch munged ip shellcheck; do command -v $$needed >/dev/null || missing=1; done; \
	test -z "$$missing" || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM) >/dev/null; }

slurm-test: $(INSTALLED) slurm-install ## whatever dies, a job goes on: a real Slurm of 9 virtual nodes (half an hour to an hour)
	$(CPU) $(BIN)/python -m pytest -m slurm

slurm-smoke: $(INSTALLED) slurm-install ## one case of it: warned, saved, requeued, resumed (at most 8 minutes)
	$(CPU) $(BIN)/python -m pytest -m slurm_smoke tests/slurm

# pip refuses them beside our pins (streaming: numpy < 2.2, transformers < 5), so they lie outside and without theirs.
bench-peers: $(INSTALLED) ## what benches hold ours against: MosaicML streaming, litdata, binpacking
	$(PIP) -q --no-deps --target runs/peers $(PEERS)

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy phi3v_dist/config phi3v_dist/packing phi3v_dist/documents

clean: ## delete .venv (runs/ stays)
	rm -rf .venv
