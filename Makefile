# Every target first sets up what it needs; later runs start in seconds.
PYTHON ?= python3
# The ROS 2 release whose wheels are installed: kilted or jazzy; without it that of .venv, or kilted.
ROS ?=
SHELL := /bin/bash
VENV := .venv/bin
# One thread per process: several processes share the cores.
export OMP_NUM_THREADS ?= 1
export LP_NUM_THREADS ?= 0

.DEFAULT_GOAL := help
BENCHMARKS := $(sort $(patsubst benchmarks/bench_%.py,bench-%,$(wildcard benchmarks/bench_*.py)))
.PHONY: help setup reference demo loop paper-in-miniature test test-all fuzz fuzz-data peers lint clean $(BENCHMARKS)

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "make %-18s %s\n", $$1, $$2}'
	@echo "make bench-NAME         one claim against its peer or limit; ARGS=--quick for a short run; NAME is one of"
	@echo "                        $(BENCHMARKS:bench-%=%)"

setup:  ## create .venv with pinned versions and the program openvla; ROS=jazzy for the wheels of that release
	@$(PYTHON) tools/setup_environment.py --ros "$(ROS)" $(if $(findstring command,$(origin PYTHON)),--this-python)

demo: setup  ## the whole live loop in simulation: an arm is given an instruction and carries it out
	@$(VENV)/openvla demo

loop: setup  ## demonstrate, fine-tune, swap the LoRA adapter into the running robot; success before and after
	@$(VENV)/openvla loop $(ARGS)

paper-in-miniature: setup  ## methods and baselines on one new task; ARGS=--quick for a short run
	@$(VENV)/python benchmarks/paper_in_miniature.py $(ARGS)

# Tests between real processes run one after another in one process of pytest, all others beside them.
test: ARGS ?= -n 2 --dist loadgroup
test: setup  ## the tests, in two processes of pytest; ARGS="-n 0" for one
	@$(VENV)/python -m pytest $(ARGS)

test-all: setup  ## the tests with the long ones: kills x 50, a million chunks
	@$(VENV)/python -m pytest -m "not gpu"

fuzz: setup  ## send unusual messages to every node over DDS: none may end, hang, or move the arm
	@$(VENV)/python tools/fuzz_nodes.py $(ARGS)

fuzz-data: setup  ## damage every file format that is read: no wrong value may pass; ARGS='--times 200 --show'
	@$(VENV)/python tools/fuzz_data.py $(ARGS)

peers: setup  ## others' real programs beside this package; downloads; ARGS="--only NAME" for one
	@$(VENV)/python tools/run_peers.py $(ARGS)

lint: setup  ## ruff, and mypy in strict mode
	@$(VENV)/ruff check . && $(VENV)/ruff format --check . && $(VENV)/mypy

reference: setup  ## generate docs/reference from the code
	@$(VENV)/python tools/write_reference.py

$(BENCHMARKS): bench-%: setup
	@$(VENV)/python benchmarks/bench_$*.py $(ARGS)

clean:  ## remove the environment and everything that runs left behind
	rm -rf .venv runs
