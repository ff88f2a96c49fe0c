# make setup    everything this checkout needs: system packages, .venv, the demo's model
# make demo     a model in three segments behind a broker, on this machine
# make test     all tests (ARGS="-k door" for some)
# make test-thorough  the same, properties with twenty times as many examples
# make check    formatting, lint, types
# make format   formats and mends what can be mended

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.setup-stamp
HOP ?= build/hop

# A test run starts hundreds of Python processes: none is to compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-thorough check format baseline broker-conf clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt requirements/demo-model.txt scripts/setup
	@scripts/setup
	@touch $@

demo: $(STAMP)
	@$(BIN)/dsi-mqtt demo $(ARGS)

test: $(STAMP)
	@$(BIN)/pytest -q --numprocesses=auto --dist=worksteal $(ARGS)

test-thorough: $(STAMP)
	@$(MAKE) --silent test ARGS='--hypothesis-profile=thorough $(ARGS)'

check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# The C program that `dsi-mqtt bench hop` compares with.
baseline: $(HOP)

$(HOP): dsi_mqtt/cli/bench_data/hop.c benchmarks/baseline/Makefile
	@mkdir -p $(@D)
	@$(MAKE) --silent -C benchmarks/baseline OUT=$(abspath $@)

# broker/*.conf from the settings in dsi_mqtt/transport/broker_settings.py; a test compares them.
broker-conf: $(STAMP)
	@$(BIN)/python -m dsi_mqtt.transport.broker_settings broker

clean:
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -prune -exec rm -rf {} +
