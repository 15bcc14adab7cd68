PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Which tests: make test TESTS=tests/klein
TESTS :=

.PHONY: test demo bench environment

test: environment
	$(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadscope --no-loadscope-reorder $(TESTS)

demo: environment
	$(RUN) tests/demo

bench: environment
	$(RUN) tests/bench

environment:
	@$(PYTHON) tests/environment.py $(VENV)
