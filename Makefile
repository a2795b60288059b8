# `make` lists what there is. Everything runs in .venv, which `make setup` fills.

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

# The newest Python that the project accepts and that can make an environment.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

.PHONY: help setup references train test test-slow lint docs bench gpu gpu-wheels

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | column -t -s:

setup: $(VENV)/.installed  ## make .venv with the tested versions (a few GB, most of it torch)

references: setup .venv-references/.installed  ## make .venv-references, the libraries that formats are tested with

train: setup  ## make the scenes, train on them, measure (2 minutes on two idle cores)
	deepspeed --log_level critical launch/train.py quickstart

test: setup references  ## run the tests, less the slow ones and those that need a GPU
	python -m pytest --numprocesses=2 --dist=loadgroup --no-loadscope-reorder

test-slow: setup references  ## run all the tests, and print the figures of jobs and sweeps (an hour)
	python -m pytest --numprocesses=2 --dist=loadgroup --no-loadscope-reorder -m "" --durations=40

bench: setup .venv-peers/.installed  ## time and memory beside those of the peers (a quarter of an hour)
	python -m benchmarks.loader
	python -m benchmarks.training
	python -m benchmarks.objectives --figure docs/objectives.png

DEVICE ?= cuda
RESULTS ?= gpu.jsonl
gpu:  ## prove and time everything on a GPU, in 8 minutes (DEVICE=cpu: in small form on a CPU)
	@# By .venv where there is one, else by the machine's own Python and the wheels of .wheels.
	python3 -m benchmarks.gpu --device $(DEVICE) --results $(RESULTS)

gpu-wheels: setup  ## download into .wheels what a machine with a GPU, PyTorch and no network lacks
	python -m benchmarks.gpu.wheels

docs: setup  ## build the documentation site into site/, and fail at any broken link
	zensical build --clean --strict

lint: setup  ## check style and types
	ruff check .
	ruff format --check .
	mypy

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { \
		echo "error: no python3 >= 3.11 with venv here: install one, or make PYTHON=PATH" >&2; exit 2; }
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes the first time"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

.venv-peers/.installed: benchmarks/peers.txt constraints.txt
	@.venv-peers/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv-peers
	@echo "installing the peers into .venv-peers: a few minutes the first time"
	grep -v '^webdataset' constraints.txt > .venv-peers/constraints.txt
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-peers/constraints.txt -r benchmarks/peers.txt
	@touch $@

.venv-references/.installed: tests/formats/references.txt $(VENV)/.installed
	$(VENV)/bin/python -m venv --clear .venv-references
	@# pip and the libraries there find what .venv has.
	$(VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])' > "$$(echo .venv-references/lib/python3*/site-packages)/ours.pth"
	.venv-references/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/formats/references.txt
	@# It needs none of what else it asks for, such as the metrics of generated captions.
	.venv-references/bin/python -m pip install --quiet --disable-pip-version-check --no-deps clip-benchmark==1.6.2
	@touch $@
