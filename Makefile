# Thin doors: each target calls the workflow or the package, nothing is computed here.

PROFILE ?= demo
SEEDS ?=
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
PYTEST_ARGS ?=
ARGS ?=
PYTHON ?= python3

# The index's own build of torch is taken unless TORCH_INDEX names another package index, which is how to get the
# CPU-only build (a tenth of the size) or one for a given CUDA version: make env TORCH_INDEX=<address>.
TORCH ?= torch==2.13.0
TORCH_INDEX ?=

# mamba-ssm's plain references and Triton kernels, to test ours against on a CPU. What is installed already is kept.
ORACLES := triton==3.9.0 mamba-ssm==2.3.2.post1

BIN := .venv/bin
STAMP := .venv/.installed
PROFILES = $(sort $(notdir $(basename $(wildcard notebooks/profiles/*.yaml))))

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help env ffmpeg profile reproduce resume published rehearse test oracles gpu lab executed site clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "PROFILE=$(PROFILE) (there are: $(PROFILES)), SEEDS=$(or $(SEEDS),those of the profile) (trainings of each model), CORES=$(CORES)"

env: $(STAMP)  ## create .venv with everything the study needs

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) must be Python 3.11 or newer; name one with: make env PYTHON=python3.11" >&2; exit 2; }
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: $(PYTHON) -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 2; }

# torch goes first, so that the other packages are resolved beside the build that was chosen. pip reads dependency
# groups from 25.1 on. torchaudio's compiled libraries are built for CUDA and fail to load beside a CPU-only torch; its
# transforms, resampling and mel filters are plain Python and work without them.
$(STAMP): pyproject.toml | $(BIN)/python
	@echo "installing pip"
	@$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	@echo "installing $(TORCH)"
	@$(BIN)/python -m pip install -q$(if $(TORCH_INDEX), --index-url $(TORCH_INDEX)) '$(TORCH)'
	@echo "installing bsm and its dependencies (minutes)"
	@$(BIN)/python -m pip install -qq -e '.[study,cluster,dev]'
	@$(BIN)/python -m pip install -q --no-deps --group no-deps
	@$(BIN)/python -c "import pathlib, sysconfig, torch; libs = pathlib.Path(sysconfig.get_path('platlib'), 'torchaudio', 'lib'); [f.unlink() for f in libs.glob('*.so') if torch.version.cuda is None]"
	@echo "registering the Jupyter kernel bsm"
	@$(BIN)/python -m ipykernel install --sys-prefix --name bsm --display-name bsm >/dev/null
	@touch $@

ffmpeg:
ifeq ($(and $(shell command -v ffmpeg),$(shell command -v ffprobe)),)
ifeq ($(shell id -u)$(if $(shell command -v apt-get),apt),0apt)
	@echo "installing ffmpeg"
	@{ apt-get update -qq && apt-get install -qq -y ffmpeg; } >/dev/null
else
	@echo "error: ffmpeg and ffprobe are not on the PATH; install them, for example: sudo apt-get install -y ffmpeg" >&2; exit 2
endif
endif

profile:
ifeq ($(wildcard notebooks/profiles/$(PROFILE).yaml),)
	@echo "error: there is no profile '$(PROFILE)'; choose one of: $(PROFILES)" >&2; exit 2
endif

# The workflow's and the tests' own commands find bsm and its tools without an activated environment.
reproduce published rehearse test lab site: export PATH := $(CURDIR)/.venv/bin:$(PATH)

reproduce: profile env ffmpeg  ## run the whole study: data, models, notebooks, figures, report (PROFILE=..., SEEDS=..., CORES=...)
	@mkdir -p .snakemake; $(ALONE) $(BIN)/snakemake --cores $(CORES) --keep-going --rerun-incomplete --config profile=$(PROFILE)$(if $(SEEDS), seeds=$(SEEDS))

# Holds a lock of the system, which ends with this command however that ends. So what a killed run left in Snakemake's
# own locks is removed only while no other run works here. It waits 10 s: the kernels of a killed run end a little later.
# Without flock(1), `make resume` removes the locks.
ALONE = if command -v flock > /dev/null; then exec 9> .snakemake/alone; \
	flock -w 10 9 || { echo "error: another make reproduce works in this folder; wait until it ends, or stop it" >&2; exit 2; }; \
	rm -rf .snakemake/locks; fi;

resume: profile env  ## go on after a run that was killed: remove its lock, then as reproduce (PROFILE=..., SEEDS=..., CORES=...)
	$(BIN)/snakemake --cores 1 --unlock --config profile=$(PROFILE)
	@$(MAKE) reproduce

# The published weights and real songs take the place of a profile's own. On two CPU cores a pass of windows of 8 s takes
# 15 minutes over the excerpts, and 9 hours over MUSDB18-HQ (2.6 s a second of music, reports/speed). Here are about five
# passes over the excerpts, which hold windows of up to 6 s, or eight over MUSDB18-HQ; the first gives the scores.
WEIGHTS ?= msst-v1.0.19
DATA ?=
DEVICE ?= cpu
OF_PUBLISHED = --profile sample -p weights '$(WEIGHTS)' -p dataset '$(or $(DATA),data/musdb18-sample)' \
  -p device $(DEVICE) -p out reports/published

published: env ffmpeg  ## score the published model on real songs (WEIGHTS=name or file, DATA=folder of MUSDB18-HQ, DEVICE=cuda)
	@$(if $(wildcard $(WEIGHTS)),,$(BIN)/bsm weights fetch '$(WEIGHTS)')
	@$(if $(DATA),,$(BIN)/bsm data fetch musdb18-sample)
	$(BIN)/bsm study 10_published_model $(OF_PUBLISHED) -p bench_seconds '[]'
	$(BIN)/bsm study 06_vocal_occurrence $(OF_PUBLISHED)
	$(BIN)/bsm study 05_input_length $(OF_PUBLISHED) -p segment_seconds 8.0 \
	  -p windows '[1.0, 2.0, 3.0, 6.0, 16.0]' -p overlap_windows '[]'
	$(BIN)/bsm claims render

rehearse: env ffmpeg  ## run the paper's profile on a stand-in for its data, with a small model (ARGS="--profile mir1k --songs 3")
	$(BIN)/python -m bsm.study.rehearse --cores $(CORES) $(ARGS)

test: env ffmpeg  ## run the tests (PYTEST_ARGS=...)
	$(BIN)/pytest -n $(CORES) $(PYTEST_ARGS)

oracles: .venv/.oracles  ## install mamba-ssm's references, so that `make test` compares the scans with them (1 GB)

# mamba-ssm is built without its CUDA extension, and neither fetched as a ready-made wheel: its setup.py looks for one
# by the CUDA version of torch, which a CPU build has not. Its other requirements are for models that are not used here.
.venv/.oracles: Makefile | $(STAMP)
	@for package in $(ORACLES); do \
	  $(BIN)/python -m pip show -qq "$${package%%==*}" 2>/dev/null || { echo "installing $$package"; \
	  MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE $(BIN)/python -m pip install -q --no-deps --no-build-isolation "$$package"; } || exit; \
	done
	@touch $@

# Status 2 says that nothing could begin, as on a machine without a GPU; 1, that a part failed.
gpu: env  ## on a machine with CUDA: measure what waits for a GPU, in 8 minutes, and judge the claims (ARGS="scan block")
	@status=0; $(BIN)/bsm bench gpu $(ARGS) || status=$$?; [ $$status -eq 2 ] || $(BIN)/bsm claims render; exit $$status

# JupyterLab refuses to start as root unless it is told to, as in a container.
ROOT_OPTION := $(if $(filter 0,$(shell id -u)),--allow-root)

lab: env ffmpeg  ## open the notebooks in JupyterLab, at their contents page (ARGS="--no-browser --port 9999")
	$(BIN)/jupyter lab --MultiKernelManager.default_kernel_name=bsm \
	  --LabApp.app_settings_dir=notebooks/.lab --LabApp.default_url=/lab/tree/notebooks/README.md $(ROOT_OPTION) $(ARGS)

executed: profile
ifeq ($(wildcard reports/$(PROFILE)/notebooks/*.ipynb),)
	@echo "error: reports/$(PROFILE) has no executed notebooks yet; first run: make reproduce PROFILE=$(PROFILE)" >&2; exit 2
endif

site: executed env .venv/.site  ## build one site of documentation, report and notebooks: site/index.html (PROFILE=...)
	rm -rf build/api build/site
	PROFILE=$(PROFILE) $(BIN)/sphinx-build -q -W --keep-going -d build/site/pages -c docs . build/site/html
	rm -rf site && mv build/site/html site

.venv/.site: pyproject.toml | $(STAMP)
	@echo "installing what builds the site"
	@$(BIN)/python -m pip install -q --group site
	@touch $@

clean:  ## remove trainings (runs/), the site, builds and caches; data/, reports/ and .venv stay
	rm -rf build runs site .snakemake .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -path ./data -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

distclean: clean  ## also remove .venv and data/
	rm -rf .venv data bsm.egg-info
