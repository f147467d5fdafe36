# make demo | make test are the two commands of a fresh clone; everything else builds on `setup`.
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
# On Linux a plain torch is the CUDA build; TORCH_INDEX=https://download.pytorch.org/whl/cpu gives the CPU one.
TORCH_INDEX ?=
BIN := $(VENV)/bin
# Two processes, whole files to each: two cores are the smallest machine meant here.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
BENCH := $(BENCH_VENV)/bin/voxstrata bench
PIP_INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)

.PHONY: setup demo test test-all check lint types reference results docs bench weights clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.ready: pyproject.toml constraints/tested.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "voxstrata needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --constraint constraints/tested.txt --editable '.[synth,dev]'
	touch $@

setup: $(VENV)/.ready  ## make .venv with everything in it

demo: setup  ## the main job on the embedded default, at most 10 minutes
	$(BIN)/voxstrata demo

test: setup  ## the tests, at most 10 minutes
	$(PYTEST) -m 'not slow'

test-all: setup  ## the tests and the slow ones
	$(PYTEST)

lint: setup
	$(BIN)/ruff check src tests docs
	$(BIN)/ruff format --check src tests docs

types: setup
	$(BIN)/mypy

check: lint types test  ## lint, types and tests

reference: setup  ## write docs/reference from the program
	$(BIN)/python docs/generate.py

results: setup  ## write the tables and figures of the results from docs/answers
	$(BIN)/python docs/generate.py results

$(VENV)/.docs-ready: $(VENV)/.ready constraints/docs.txt
	$(BIN)/python -m pip install --quiet $(PIP_INDEX) --constraint constraints/tested.txt --constraint constraints/docs.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs-ready  ## the documentation site, into build/docs
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html docs build/docs

# fusion_bench brings lightning, datasets and more, so that it gets an environment of its own.
$(BENCH_VENV)/.ready: pyproject.toml constraints/tested.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_VENV)/bin/python -m pip install --quiet $(PIP_INDEX) --constraint constraints/tested.txt --editable . fusion_bench==0.2.33
	touch $@

# MERGEKIT: Python of an environment with mergekit, which wants other versions than ours.
# Exit code 3: some way failed for want of memory and is named; what the others gave is kept.
bench: $(BENCH_VENV)/.ready  ## time and memory beside others, into build/benchmarks
	mkdir -p build/benchmarks
	$(BENCH) attention --json > build/benchmarks/attention.json || test $$? -eq 3
	$(BENCH) lambda-step --shape base --json > build/benchmarks/lambda-step-base.json || test $$? -eq 3
	$(BENCH) lambda-step --shape large --json > build/benchmarks/lambda-step-large.json || test $$? -eq 3
	$(BENCH) cached --json > build/benchmarks/cached.json || test $$? -eq 3
	$(BENCH) harmonifuse --json > build/benchmarks/harmonifuse.json || test $$? -eq 3
	$(BENCH) merge-files $(if $(MERGEKIT),--mergekit $(MERGEKIT),) --json > build/benchmarks/merge-files.json || test $$? -eq 3

# The packaged models, made anew: two to three hours on two cores. VOXSTRATA_DATA holds AN4.
W := build/weights
weights: setup  ## train the packaged models again, into build/weights
	test -d $(W)/speech || $(BIN)/voxstrata corpus synth $(W)/speech --minutes 600 --shares 0.97,0.03,0 --voices 260,20,1 --seed 7 --unlabelled
	test -d $(W)/letters || $(BIN)/voxstrata corpus synth $(W)/letters --clips 4300 --shares 0.93,0.023,0.047 --voices 120,10,20 --seed 11
	test -d $(W)/an4 || $(BIN)/voxstrata corpus prepare an4 $(VOXSTRATA_DATA)/AN4 $(W)/an4
	$(BIN)/voxstrata pretrain pretrain-tiny 'data.corpora=[{path: $(W)/speech, splits: [train, dev]}, {path: $(W)/an4, splits: [train, dev]}]' --out $(W)/base
	test -d $(W)/wavlm-tiny || $(BIN)/voxstrata export $(W)/base $(W)/wavlm-tiny --dtype float16
	$(BIN)/voxstrata pretrain pretrain-tiny-ssl 'data.corpora=[{path: $(W)/speech, splits: [train, dev]}, {path: $(W)/an4, splits: [train, dev]}]' --out $(W)/ssl
	test -d $(W)/wavlm-tiny-ssl || $(BIN)/voxstrata export $(W)/ssl $(W)/wavlm-tiny-ssl --dtype float16
	$(BIN)/voxstrata train tiny-asr base=$(W)/wavlm-tiny 'data.corpora=[{path: $(W)/letters}]' --out $(W)/asr
	test -d $(W)/wavlm-tiny-asr || $(BIN)/voxstrata export $(W)/asr $(W)/wavlm-tiny-asr --dtype float16
	sha256sum $(W)/wavlm-tiny/model.safetensors $(W)/wavlm-tiny-ssl/model.safetensors $(W)/wavlm-tiny-asr/encoder/model.safetensors

clean:  ## remove what was built (runs stay)
	rm -rf $(VENV) $(BENCH_VENV) build dist .mypy_cache .ruff_cache .pytest_cache
