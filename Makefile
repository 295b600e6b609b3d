# `make demo` and `make test` do all their own set-up. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test lint reproduce-state reproduce-image reproduce-models clean

TASK ?= pusht_state
EPISODES ?= 3
SEED ?= 100000
REALTIME ?=
in_env := source ./env.sh &&

# A domain of its own, so that two runs on one machine do not hear each other.
ifndef ROS_DOMAIN_ID
export ROS_DOMAIN_ID := $(shell echo $$((RANDOM % 100 + 1)))
endif

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'
	@echo "  variables of make demo: EPISODES=3 SEED=100000 TASK=pusht_state REALTIME=1"

setup:  ## what recording and running need: .venv and the built interfaces
	@scripts/setup.sh run

setup-dev:  ## the same with what training and the tests need (PyTorch)
	@scripts/setup.sh dev

demo: setup  ## the simulated robot driven by the shipped policy, over ROS 2; writes out/demo
	@$(in_env) dp-ros demo --episodes $(EPISODES) --seed $(SEED) --task $(TASK) $(if $(filter-out 0,$(REALTIME)),--realtime)

lint: setup-dev  ## ruff and mypy
	@$(in_env) ruff check . && ruff format --check . && mypy dp_ros

# Tests that run nodes in real time have the machine to themselves, after all others, which run a file a core.
test: lint  ## lint, then the whole test suite (or PYTEST_ARGS="test/runtime -k seam")
ifdef PYTEST_ARGS
	@$(in_env) pytest $(PYTEST_ARGS)
else
	@$(in_env) OMP_NUM_THREADS=1 pytest --durations 25 -n auto --maxprocesses 8 --dist loadfile --ignore-glob '*/system/test_*' --ignore test/system/faults \
	  --ignore-glob '*/bridge/test_setpoint_process*' --ignore-glob '*/nodes/test_recorder_raw*'
	@$(in_env) pytest --durations 25 test/bridge/test_setpoint_process*.py test/nodes/test_recorder_raw.py test/system --ignore test/system/lockstep
endif

reproduce-state: setup-dev  ## the state policy and its score from nothing; goes on where it was
	@$(in_env) scripts/reproduce_state.sh

reproduce-image: setup-dev  ## the same for the image policy, which begins with a state policy
	@$(in_env) scripts/reproduce_image.sh

reproduce-models: setup-dev  ## models like the shipped ones, which live with a delay, from nothing (three hours)
	@$(in_env) scripts/reproduce_models.sh

clean:  ## remove the environment and everything that was built
	rm -rf .venv .ros build install log .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
