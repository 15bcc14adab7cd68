PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: test demo bench environment

test: environment
	$(RUN) -m pytest

demo: environment
	$(RUN) tests/demo

bench: environment
	$(RUN) tests/bench

environment:
	@$(PYTHON) tests/environment.py $(VENV)
