PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Which tests: make test TESTS=tests/klein
TESTS :=

.PHONY: test demo bench gpu environment

# Three processes: many tests wait for a browser or a clock, so that they keep two cores busy.
test: environment
	$(RUN) -m pytest --numprocesses=3 --dist=loadscope --no-loadscope-reorder $(TESTS)

demo: environment
	$(RUN) tests/demo

bench: environment
	$(RUN) tests/bench

# With the torch at hand, on the graphics card at hand; nothing is installed. make gpu GPU=--dry PYTHON=.venv/bin/python
gpu:
	@$(PYTHON) tests/gpu $(GPU)

environment:
	@$(PYTHON) tests/environment.py $(VENV)
